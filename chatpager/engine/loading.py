"""Reading a prompt's KV blocks from disk beside the engine's steps.

One load at a time, in a thread of its own; the request that it is for waits meanwhile and nobody else does. It waits
for as long as the blocks come faster than they could be computed: a load that falls behind is given up, and what came
in time is used. So a disk that is slow, or hangs, costs a request a tenth of what it would have computed, and the
others nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from chatpager.engine.block_hash import BlockProof

PATIENCE = 0.1
"""Of the time that computing all of it would take, the part that is waited before the first block has come."""
LEAST_PATIENCE = 0.02
"""Seconds; less says nothing about a disk."""
UNKNOWN_PATIENCE = 1.0
"""Seconds without a block, before anything is known of what computing takes."""


class Load:
    """Blocks of one prompt, in order, and what of them has come. ``over``: nothing of it is waited for any more."""

    __slots__ = ("began", "contents", "finished", "latest", "over", "proofs", "seen")

    def __init__(self, proofs: Sequence[BlockProof]) -> None:
        self.proofs = proofs
        self.contents: dict[BlockProof, bytes] = {}
        """A beginning of ``proofs``, without a gap."""
        self.began: float | None = None
        self.seen, self.latest = 0, 0.0
        """How many blocks had come when somebody last looked, and when the latest of them was seen first."""
        self.finished = False
        """The thread does nothing for it any more."""
        self.over = not proofs

    def is_late(self, now: float, compute_seconds: float | None) -> bool:
        """Whether computing the rest is better than waiting on. ``compute_seconds`` a block, if known."""
        assert self.began is not None
        if compute_seconds is None:
            return now - self.latest > UNKNOWN_PATIENCE
        patience = max(LEAST_PATIENCE, PATIENCE * len(self.proofs) * compute_seconds)
        return now - self.began > patience + len(self.contents) * compute_seconds


class Loader:
    """The thread. ``read`` gives a block's content, or None where there is none that can be used."""

    def __init__(self, read: Callable[[BlockProof], bytes | None]) -> None:
        self._read = read
        self._changed = threading.Condition()
        self._next: Load | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="chatpager-loader", daemon=True)
        self._thread.start()

    def start(self, load: Load) -> None:
        """Read its blocks, once the thread has left the one before."""
        with self._changed:
            self._next = load
            self._changed.notify_all()

    def stop(self, load: Load) -> None:
        """Nothing is added to it from here on."""
        with self._changed:
            load.over = True

    def wait(self, load: Load, seconds: float) -> None:
        """Return when the load is finished, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: load.finished, seconds)

    def close(self) -> None:
        """A thread that hangs in a read is left to itself."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next or self._closing)
                load, self._next = self._next, None
            if load is None:
                return
            self._fill(load)
            with self._changed:
                load.finished = True
                self._changed.notify_all()

    def _fill(self, load: Load) -> None:
        for proof in load.proofs:
            if self._closing or (content := self._read(proof)) is None or not self._add(load, proof, content):
                return

    def _add(self, load: Load, proof: BlockProof, content: bytes) -> bool:
        """False: it has been stopped."""
        with self._changed:
            if not load.over:
                load.contents[proof] = content
            return not load.over
