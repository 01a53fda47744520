"""What conversations consist of, as the disk is to have it: records are written in the background, of each conversation
the latest alone, and a block goes when the last conversation that has it goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from chatpager.engine.block_folder import BlockFolder
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_index import DiskIndex
from chatpager.engine.disk_jobs import DiskJobs
from chatpager.engine.disk_reader import DiskReader
from chatpager.engine.head_records import HeadRecords


class KeptHeads:
    """For the engine's thread; the thread of ``jobs`` does what follows from it."""

    def __init__(
        self, records: HeadRecords, index: DiskIndex, files: BlockFolder, reader: DiskReader, jobs: DiskJobs
    ) -> None:
        self._records = records
        self._index = index
        self._files = files
        self._reader = reader
        self._jobs = jobs
        self._moved: dict[str, Sequence[BlockProof]] = {}
        """Conversations that went on, whose blocks are on their way."""
        self._waiting: dict[str, list[BlockProof] | None] = {}
        """What conversations are to be recorded as having; None: they are gone."""

    def keep(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """Record what a conversation consists of now. From here on it has these blocks, whoever lets go of them before
        the record is written."""
        with self._jobs.lock:
            self._records.hold(proofs)
            self._moved[owner] = proofs
            self._pass_over(owner)
            self._waiting[owner] = list(proofs)
            self._jobs.put(partial(self._record, owner))

    def settle(self) -> None:
        """The blocks of those that went on have all been handed over."""
        with self._jobs.lock:
            for proofs in self._moved.values():
                self._jobs.put(partial(self._used, proofs))
            self._moved.clear()

    def of(self, owner: str) -> tuple[BlockProof, ...]:
        """The blocks of a conversation with this model, as they were recorded."""
        return self._reader.ask_or(partial(self._records.read, owner), ())

    def names(self) -> set[str]:
        """Of what is recorded; none of a file system that does not tell."""
        return self._reader.ask_or(self._records.names, set())

    def drop(self, owner: str) -> None:
        """The conversation is gone: its blocks go too, but for those that others have. Before anything else: what was
        deleted is not written any more, and is not there after a crash."""
        with self._jobs.lock:
            self._pass_over(owner)
            self._waiting[owner] = None
            self._jobs.put(partial(self._record, owner), first=True)

    def drop_tenant(self, tenant: str) -> None:
        """All conversations of a tenant are gone, also those whose names nobody knows any more."""
        with self._jobs.lock:
            for owner in [owner for owner in self._waiting if owner.partition("\0")[0] == tenant]:
                self._pass_over(owner)
            self._jobs.put(partial(self._drop_all, partial(self._records.names_of_tenant, tenant)), first=True)

    def drop_named(self, names: Collection[str]) -> None:
        """The conversations with these records are gone."""
        with self._jobs.lock:
            self._jobs.put(partial(self._drop_all, lambda: names), first=True)

    def _pass_over(self, owner: str) -> None:
        """A record that waits is not written any more. What was in it goes before it can be written anew."""
        if gone := self._released(self._waiting.pop(owner, None) or ()):
            self._jobs.put(partial(self._files.delete, gone), first=True)

    def _record(self, owner: str) -> None:
        """What is to be recorded of a conversation by now: whatever was before it is passed over."""
        with self._jobs.lock:
            if owner not in self._waiting:
                return
            proofs = self._waiting.pop(owner)
        if proofs is None:
            self._drop_all(lambda: [self._records.name_of(owner)])
            return
        self._jobs.pause()
        try:
            old = self._records.write(owner, proofs)
        except OSError:
            self._let_go(proofs)
            raise
        self._let_go(old)

    def _drop_all(self, names: Callable[[], Iterable[str]]) -> None:
        """What the system refuses for now is done later: what was deleted must not stay."""
        try:
            for name in names():
                self._let_go(self._records.pop(name))
        except OSError:
            self._jobs.put_off(partial(self._drop_all, names))
            raise

    def _let_go(self, proofs: Sequence[BlockProof]) -> None:
        """A conversation no longer has these: those that nobody has go. In one go, so that who takes one meanwhile
        either keeps it or sees that it is not there."""
        with self._jobs.lock:
            gone = self._released(proofs)
        self._files.delete(gone)

    def _released(self, proofs: Sequence[BlockProof]) -> list[BlockProof]:
        gone = self._records.let_go(proofs)
        for proof in gone:
            self._index.drop(proof)
        return gone

    def _used(self, proofs: Sequence[BlockProof]) -> None:
        with self._jobs.lock:
            self._index.use(proofs)
