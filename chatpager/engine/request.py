"""A request that runs: its sequences, its moments, and the account of each sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatpager.engine.heads import Head
from chatpager.engine.messages import Lost, Usage
from chatpager.engine.reading import Source
from chatpager.engine.sequence import Sequence


@dataclass(slots=True)
class Request:
    """A request's sequences (one, or ``n``) by index, and its moments, in the seconds of the caller's clock."""

    seqs: list[Sequence]
    added: float
    started: float | None = None
    first_token: float | None = None
    unfinished: set[int] = field(default_factory=set)
    draft_tokens: int = 0
    """Of the prompt, found in the cache because a draft had computed them."""

    def usage(self, seq: Sequence, head: Head | None, now: float | None = None) -> Usage:
        """``head``: its session's. Without ``now`` it is the last moment that is known."""
        if now is None:
            now = self.started if self.started is not None else self.added
        # What waits for its request's prompt shares what one of its siblings computed of it so far.
        asked = seq if seq.first_admitted else next((s for s in self.seqs if s.first_admitted), seq)
        started = self.started if self.started is not None else now
        first_token = self.first_token if self.first_token is not None else now
        return Usage(
            admitted=asked.first_admitted,
            prompt_tokens=seq.num_prompt_tokens,
            cached_tokens=asked.cached_tokens,
            host_tokens=asked.restored_tokens[Source.HOST],
            disk_tokens=asked.restored_tokens[Source.DISK],
            draft_tokens=self.draft_tokens,
            published_tokens=len(seq.prefix.token_ids) if seq.prefix else 0,
            published=seq.prefix.label if seq.prefix else None,
            committed_tokens=asked.reached,
            output_tokens=seq.num_output_tokens,
            preemptions=seq.preemptions,
            is_long=asked.is_long,
            lost=self._lost(seq, head),
            queue_seconds=started - self.added,
            prefill_seconds=first_token - started,
        )

    def _lost(self, seq: Sequence, head: Head | None) -> Lost | None:
        found = seq.evicted
        if found is None or self.started is None:
            return None
        expired, revoked = (head.expired_at, head.revoked_at) if head else (None, None)
        return Lost(
            seconds_ago=max(0.0, self.started - found.at),
            eviction_class=found.eviction_class.name.lower(),
            by=found.by,
            lease_expired=expired is not None and expired <= found.at,
            lease_revoked=revoked is not None and revoked <= found.at,
        )
