"""KV blocks in files: a conversation's prefix that outlives the process.

One file a block, and a block goes when the last conversation that has it goes: of a group of blocks the rest would stay
behind (``bench/LOG.md`` says what groups would bring). The folder is the index: nothing can fall out of step with it. A
file that is not what it says is deleted when it is read, counted, and taken for a miss. A disk that is full, slow or
gone costs warmth and nothing else, one that hangs also a second of the engine's time. A block that no conversation is
recorded as having goes at the start: a process that was killed may have deleted the record alone.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from chatpager.engine.block_files import BlockFile, Plain
from chatpager.engine.block_folder import BlockFolder
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_index import DiskIndex
from chatpager.engine.disk_jobs import DiskJobs
from chatpager.engine.disk_reader import HANGS_SECONDS, DiskReader
from chatpager.engine.head_records import HeadRecords
from chatpager.engine.kept_heads import KeptHeads
from chatpager.engine.patient import Hangs, Patient

log = logging.getLogger(__name__)

NO_DOMAIN = BlockProof(bytes(32))
MAX_WAITING = 64 << 20
"""Bytes that wait to be written when there is no room for more."""


class DiskTier:
    """At most ``capacity`` bytes of blocks under ``folder``. The one used longest ago goes first, and of a conversation
    its end before its beginning. ``domain`` is that of the model that is served, the salt apart. Files written in
    another way than ``form`` are deleted: who seals them has none left that are not. ``key`` as ``HeadRecords`` has it.

    ``save`` hands a block to a thread that writes it; ``find`` and the rest are for the engine's thread. ``heads`` is
    what conversations consist of, by which blocks stay or go.
    """

    def __init__(
        self,
        folder: Path,
        capacity: int,
        domain: BlockProof = NO_DOMAIN,
        form: BlockFile | None = None,
        key: bytes = b"",
    ) -> None:
        self.folder = folder
        self.capacity = capacity
        self.bad_files = 0
        """Files that were not what their names say."""
        self._files = BlockFolder(folder, form or Plain())
        with ExitStack() as unless_opened:
            unless_opened.callback(self._files.let_go)
            self._index = DiskIndex(self._files.scan())
            records = HeadRecords(folder / "heads", domain, key)
            unless_opened.pop_all()
        self.warm_fraction = self._sweep(records)
        """Of what conversations consisted of when the folder was opened, the share that was there."""
        self._reader = DiskReader(folder)
        self._jobs = DiskJobs()
        self._lock = self._jobs.lock
        self.heads = KeptHeads(records, self._index, self._files, self._reader, self._jobs)

    def _sweep(self, records: HeadRecords) -> float | None:
        """Delete what no conversation has and what is too much. Returns ``warm_fraction``."""
        for chain in records.chains():
            self._index.use(chain)
        strays = [proof for proof in self._index.files if proof not in records]
        for proof in strays:
            self._index.forget(proof)
        self._files.delete([*strays, *self._index.surplus(self.capacity)])
        return records.warm_fraction(self._index.files)

    def __len__(self) -> int:
        return len(self._index.files)

    def __contains__(self, proof: BlockProof) -> bool:
        return proof in self._index

    @property
    def used(self) -> int:
        """Bytes of the files, headers included."""
        return self._index.file_bytes

    @property
    def failed_writes(self) -> int:
        return self._jobs.failed

    def look_after(self) -> None:
        """Where somebody has deleted the folder, nothing of it is there any more, and what is saved is saved anew."""
        if self._reader.ask_or(self._files.is_there, True):
            return
        with self._lock:
            self._index.forget_files()
        try:
            self._files.claim_again()
        except OSError:
            return  # what cannot be written is counted, and told there
        log.warning("%s was deleted; the KV blocks of conversations are written again as they go on", self.folder)

    def save(self, proof: BlockProof, content: bytes) -> None:
        """Write a block some time soon."""
        with self._lock:
            if proof in self:
                return
            self._index.wait(proof, content)
            self._jobs.put(partial(self._write, proof))

    def give_way(self, wanted: bool) -> None:
        """Write slowly from now on: steps are computed."""
        self._jobs.give_way(wanted)

    def has_room(self, wait: float = 0.0) -> bool:
        """Whether more may be handed over; it may take ``wait`` seconds for that to become true."""
        return self._jobs.wait_for(lambda: self._index.waiting_bytes < MAX_WAITING, wait)

    def find(self, proof: BlockProof) -> bytes | None:
        """The content of a block, or None; a file that is not what it says is deleted."""
        with self._lock:
            if (content := self._index.waiting.get(proof)) is not None:
                return content
            if proof not in self._index:
                return None
        read = self._reader.ask_or(partial(self._files.read, proof), None, logging.DEBUG)
        if read is None:
            return None
        content, problem = read
        with self._lock:
            if content is None:
                self.bad_files += 1
                self._index.forget(proof)
                if self.bad_files.bit_count() == 1:  # less and less often
                    log.warning("a KV block on disk is computed again (%d so far): %s", self.bad_files, problem)
            else:
                self._index.use([proof])
        return content

    def forget(self, proof: BlockProof) -> None:
        """Its content must not be found again."""
        with self._lock:
            self._index.drop(proof)
        delete = partial(self._files.delete, [proof])
        try:
            self._reader.ask(delete)
        except Hangs:
            with self._lock:
                self._jobs.put(delete, first=True)

    def clear(self) -> None:
        """Forget every block; the records of what conversations consist of stay."""
        for proof in [*self._index.waiting, *self._index.files]:
            self.forget(proof)

    def flush(self) -> None:
        """Return when nothing waits to be written."""
        self._jobs.flush()

    def close(self, patience: float = 10.0) -> None:
        """Write what waits, for at most ``patience`` seconds, and end the thread; what is left is not kept."""
        if self._jobs.closing:
            return
        ended = self._jobs.close(patience)
        self._reader.close()
        if not ended:
            left = len(self._index.waiting)
            log.warning("the disk took longer than %g s; %d KV blocks were not written", patience, left)
            return  # it may still write: the folder stays this process's
        # Who reads may be stuck, and writes nothing: another engine may have the folder.
        closer = Patient("chatpager-disk-closer", HANGS_SECONDS)
        try:
            closer.ask(self._files.let_go)
        except (Hangs, OSError) as error:
            log.warning("%s may stay this process's: %s", self.folder, str(error) or "it hangs")
        closer.close()

    # -- for the thread that writes -----------------------------------------------------------------------------------

    def _write(self, proof: BlockProof) -> None:
        with self._lock:
            content = self._index.waiting.get(proof)
        if content is None:
            return
        self._jobs.pause()
        size = 0
        try:
            size = self._files.write(proof, content)
        finally:
            self._entered(proof, content, size)

    def _entered(self, proof: BlockProof, content: bytes, size: int) -> None:
        """A file of ``size`` bytes with ``content`` was written; 0: it was not."""
        with self._lock:
            wanted = self._index.is_waited_for(proof, content)  # else it was forgotten while it was written
            if wanted and size:
                self._index.enter(proof, size)
            unwanted = [*([] if wanted else [proof]), *self._index.surplus(self.capacity)]
        self._files.delete(unwanted)
        with self._lock:
            if self._index.is_waited_for(proof, content):
                self._index.wait_no_more(proof)
