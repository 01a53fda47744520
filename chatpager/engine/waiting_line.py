"""Requests that wait to be admitted, in the order in which they are looked at."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from chatpager.engine.rounds import Rounds
from chatpager.engine.sequence import Sequence


class WaitingLine:
    """By priority, then by rounds of tenants, then age."""

    def __init__(self) -> None:
        self._seqs: list[Sequence] = []
        self._rounds = Rounds()

    def __len__(self) -> int:
        return len(self._seqs)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._seqs)

    def __getitem__(self, place: int) -> Sequence:
        return self._seqs[place]

    def first(self, count: int) -> list[Sequence]:
        return self._seqs[:count]

    def join(self, seq: Sequence) -> None:
        place = bisect_left(self._seqs, seq.priority, key=lambda other: other.priority)
        first = self._seqs[place] if place < len(self._seqs) else None
        earliest = first.round if first is not None and first.priority == seq.priority else None
        number = self._rounds.joined(seq.hasher.tenant, earliest, seq.weight)
        seq.round = number if seq.round is None else seq.round  # one that was preempted has its place again
        insort(self._seqs, seq, key=turn)

    def leave(self, seq: Sequence) -> None:
        """A sibling that waits for its request's prompt is not in the line."""
        place = bisect_left(self._seqs, turn(seq), key=turn)
        if place < len(self._seqs) and self._seqs[place] is seq:
            del self._seqs[place]
            self._rounds.left(seq.hasher.tenant)

    def begin(self, seq: Sequence) -> None:
        """It leaves because it is admitted."""
        self.leave(seq)
        self._rounds.begun(seq.round or 0)


def turn(seq: Sequence) -> tuple[int, int, int, int]:
    """A request's place in the line; no two are equal."""
    return seq.priority, seq.round or 0, seq.arrival, seq.index
