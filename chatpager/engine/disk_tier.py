"""KV blocks in files: a conversation's prefix that outlives the process.

One file a block, named by the block's proof, so what a file says it holds is what its name says, and a block goes when
the last conversation that has it goes: of a group of blocks the rest would stay behind (``bench/LOG.md`` says what
groups would bring). The folder is the index: nothing can fall out of step with it. A file is written beside its place,
synced and renamed, and carries a checksum: one that is short, flipped or foreign is deleted when it is read, counted,
and taken for a miss. A disk that is full, slow or gone costs warmth and nothing else, one that hangs also a second of
the engine's time. A block that no conversation is recorded as having goes at the start: a process that was killed may
have deleted the record alone. Files are readable for their owner only: keys and values tell what was said.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from chatpager.engine.block_files import BlockFile, Plain
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.head_records import HeadRecords
from chatpager.engine.patient import Hangs, Patient
from chatpager.engine.whole_file import PART, RUN_OUT, unlink, write_whole

T = TypeVar("T")
log = logging.getLogger(__name__)

SUFFIX = ".kv"
LOCK = "lock"
PAUSE = 0.02
"""Seconds before each write while the disk gives way to the engine."""
NO_DOMAIN = BlockProof(bytes(32))
HANGS_SECONDS = 1.0
"""After which a read is not waited for any more: more than a disk that works takes for a block."""
MAX_WAITING = 64 << 20
"""Bytes that wait to be written when there is no room for more."""


class DiskTier:
    """At most ``capacity`` bytes of blocks under ``folder``. The one used longest ago goes first, and of a conversation
    its end before its beginning. ``domain`` is that of the model that is served, the salt apart. Files written in
    another way than ``form`` are deleted: who seals them has none left that are not. ``key`` as ``HeadRecords`` has it.

    ``save`` hands a block to a thread that writes it; ``find`` and the rest are for the engine's thread.
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
        self._form = form or Plain()
        self.capacity = capacity
        self.bad_files = 0
        """Files that were not what their names say."""
        self.failed_writes = 0
        self.hung_reads = 0
        self._lock = threading.Lock()
        self._claim = claim(folder)
        with ExitStack() as unless_opened:
            unless_opened.callback(os.close, self._claim)
            self._files: OrderedDict[BlockProof, int] = OrderedDict(self._scan())
            """Size by proof, the least recently used first."""
            self._bytes = sum(self._files.values())
            self._heads = HeadRecords(folder / "heads", domain, key)
            unless_opened.pop_all()
        for chain in self._heads.chains():
            self._use(chain)
        strays = [proof for proof in self._files if proof not in self._heads]
        for proof in strays:
            self._forget(proof)
        self._unlink([*strays, *self._surplus()])
        self.warm_fraction = self._heads.warm_fraction(self._files)
        """Of what conversations consisted of when the folder was opened, the share that was there."""
        self._waiting: dict[BlockProof, bytes] = {}
        self._waiting_bytes = 0
        self._moved: dict[str, Sequence[BlockProof]] = {}
        """Conversations that went on, whose blocks are on their way."""
        self._records: dict[str, list[BlockProof] | None] = {}
        """What conversations are to be recorded as having; None: they are gone."""
        self._jobs: deque[Callable[[], None]] = deque()
        self._undone: list[Callable[[], None]] = []
        """Deletions that the system refused, until another job has succeeded."""
        self._busy = False
        self._giving_way = False
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._reader = Patient("chatpager-disk-reader", HANGS_SECONDS)
        self._writer = threading.Thread(target=self._write_all, name="chatpager-disk", daemon=True)
        self._writer.start()

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, proof: BlockProof) -> bool:
        return proof in self._files or proof in self._waiting

    @property
    def used(self) -> int:
        """Bytes of the files, headers included."""
        return self._bytes

    # -- for the engine's thread --------------------------------------------------------------------------------------

    def look_after(self) -> None:
        """Where somebody has deleted the folder, nothing of it is there any more, and what is saved is saved anew."""
        if self._asked(partial(os.path.lexists, self.folder / LOCK), True):
            return
        with self._lock:
            self._files.clear()
            self._bytes = 0
        try:
            found = claim(self.folder)
        except OSError:
            return  # what cannot be written is counted, and told there
        os.close(self._claim)
        self._claim = found
        log.warning("%s was deleted; the KV blocks of conversations are written again as they go on", self.folder)

    def save(self, proof: BlockProof, content: bytes) -> None:
        """Write a block some time soon."""
        with self._lock:
            if proof in self:
                return
            self._waiting[proof] = content
            self._waiting_bytes += len(content)
            self._put(partial(self._write, proof))

    def keep_head(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """Record what a conversation consists of now. From here on it has these blocks, whoever lets go of them before
        the record is written."""
        with self._lock:
            self._heads.hold(proofs)
            self._moved[owner] = proofs
            self._pass_over(owner)
            self._records[owner] = list(proofs)
            self._put(partial(self._record, owner))

    def settle(self) -> None:
        """The blocks of those that went on have all been handed over."""
        with self._lock:
            for proofs in self._moved.values():
                self._put(partial(self._used, proofs))
            self._moved.clear()

    def head(self, owner: str) -> tuple[BlockProof, ...]:
        """The blocks of a conversation with this model, as they were recorded."""
        return self._asked(partial(self._heads.read, owner), ())

    def drop_head(self, owner: str) -> None:
        """The conversation is gone: its blocks go too, but for those that others have. Before anything else: what was
        deleted is not written any more, and is not there after a crash."""
        with self._lock:
            self._pass_over(owner)
            self._records[owner] = None
            self._put(partial(self._record, owner), first=True)

    def drop_heads(self, tenant: str) -> None:
        """All conversations of a tenant are gone, also those whose names nobody knows any more."""
        with self._lock:
            for owner in [owner for owner in self._records if owner.partition("\0")[0] == tenant]:
                self._pass_over(owner)
            self._put(partial(self._drop_records, partial(self._heads.names_of_tenant, tenant)), first=True)

    def records(self) -> set[str]:
        """The names of what is recorded; none of a file system that does not tell."""
        return self._asked(self._heads.names, set())

    def drop_records(self, names: Collection[str]) -> None:
        """The conversations with these records are gone."""
        with self._lock:
            self._put(partial(self._drop_records, lambda: names), first=True)

    def _pass_over(self, owner: str) -> None:
        """A record that waits is not written any more. What was in it goes before it can be written anew."""
        if gone := self._released(self._records.pop(owner, None) or ()):
            self._put(partial(self._unlink, gone), first=True)

    def _put(self, job: Callable[[], None], *, first: bool = False) -> None:
        (self._jobs.appendleft if first else self._jobs.append)(job)
        self._wake.notify_all()

    def give_way(self, wanted: bool) -> None:
        """Write slowly from now on: steps are computed, and on a small machine they need the core and the lock."""
        if wanted != self._giving_way:
            with self._wake:
                self._giving_way = wanted
                self._wake.notify_all()

    def has_room(self, wait: float = 0.0) -> bool:
        """Whether more may be handed over; it may take ``wait`` seconds for that to become true."""
        with self._wake:
            return self._wake.wait_for(lambda: self._waiting_bytes < MAX_WAITING, wait)

    def find(self, proof: BlockProof) -> bytes | None:
        """The content of a block, or None; a file that is not what it says is deleted."""
        with self._lock:
            if (content := self._waiting.get(proof)) is not None:
                return content
            if proof not in self._files:
                return None
        try:
            content, problem = self._reader.ask(partial(self._read, proof))
        except Hangs:
            self._hung()
            return None
        except OSError as error:
            log.debug("a KV block on disk is computed again: %s", error)
            return None
        with self._lock:
            if content is None:
                self.bad_files += 1
                self._forget(proof)
                if _is_power_of_2(self.bad_files):
                    log.warning("a KV block on disk is computed again (%d so far): %s", self.bad_files, problem)
            elif proof in self._files:
                self._files.move_to_end(proof)
        return content

    def _read(self, proof: BlockProof) -> tuple[bytes | None, str]:
        """The content of a file, or why it has none: then it is deleted. Raises OSError where the file is not to
        blame."""
        path = self._path(proof)
        try:
            content, problem = self._form.unpack(path.read_bytes(), proof), f"{path} does not hold what its name says"
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            content, problem = None, str(error)
        if content is None:
            unlink(path)
        return content, problem

    def _asked(self, work: Callable[[], T], otherwise: T) -> T:
        """What a file system says that may hang."""
        try:
            return self._reader.ask(work)
        except Hangs:
            self._hung()
        except OSError as error:
            log.warning("%s does not tell what is there: %s", self.folder, error)
        return otherwise

    def _hung(self) -> None:
        self.hung_reads += 1
        if _is_power_of_2(self.hung_reads):
            log.warning("%s hangs; what is there is computed again meanwhile (%d so far)", self.folder, self.hung_reads)

    def forget(self, proof: BlockProof) -> None:
        """Its content must not be found again."""
        with self._lock:
            self._drop(proof)
        try:
            self._reader.ask(partial(unlink, self._path(proof)))
        except Hangs:
            with self._lock:
                self._put(partial(self._unlink, [proof]), first=True)

    def clear(self) -> None:
        """Forget every block; the records of what conversations consist of stay."""
        for proof in [*self._waiting, *self._files]:
            self.forget(proof)

    def flush(self) -> None:
        """Return when nothing waits to be written."""
        with self._wake:
            self._wake.wait_for(lambda: not self._jobs and not self._busy)

    def close(self, patience: float = 10.0) -> None:
        """Write what waits, for at most ``patience`` seconds, and end the thread; what is left is not kept."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
        self._writer.join(patience)
        self._reader.close()
        if self._writer.is_alive():
            log.warning("the disk took longer than %g s; %d KV blocks were not written", patience, len(self._waiting))
            return  # it may still write: the folder stays this process's
        # Who reads may be stuck, and writes nothing: another engine may have the folder.
        closer = Patient("chatpager-disk-closer", HANGS_SECONDS)
        try:
            closer.ask(partial(os.close, self._claim))
        except (Hangs, OSError) as error:
            log.warning("%s may stay this process's: %s", self.folder, str(error) or "it hangs")
        closer.close()

    # -- the thread that writes ---------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._busy = True
            try:
                job()
            except Exception as error:  # whatever it is, the thread goes on: others wait for it
                self.failed_writes += 1
                if _is_power_of_2(self.failed_writes):
                    log.warning("KV blocks cannot be written to disk (%d so far): %s", self.failed_writes, error)
            else:
                with self._lock:
                    self._jobs.extendleft(self._undone)
                    self._undone.clear()

    def _pause(self) -> None:
        """Before something is written, while the engine computes."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or not self._giving_way, PAUSE)

    def _record(self, owner: str) -> None:
        """What is to be recorded of a conversation by now: whatever was before it is passed over."""
        with self._lock:
            if owner not in self._records:
                return
            proofs = self._records.pop(owner)
        if proofs is None:
            self._drop_records(lambda: [self._heads.name_of(owner)])
            return
        self._pause()
        try:
            old = self._heads.write(owner, proofs)
        except OSError:
            self._let_go(proofs)
            raise
        self._let_go(old)

    def _drop_records(self, names: Callable[[], Iterable[str]]) -> None:
        """What the system refuses for now is done later: what was deleted must not stay."""
        try:
            for name in names():
                self._let_go(self._heads.pop(name))
        except OSError:
            self._undone.append(partial(self._drop_records, names))
            raise

    def _let_go(self, proofs: Sequence[BlockProof]) -> None:
        """A conversation no longer has these: those that nobody has go. In one go, so that who takes one meanwhile
        either keeps it or sees that it is not there."""
        with self._lock:
            gone = self._released(proofs)
        self._unlink(gone)

    def _released(self, proofs: Sequence[BlockProof]) -> list[BlockProof]:
        gone = self._heads.let_go(proofs)
        for proof in gone:
            self._drop(proof)
        return gone

    def _unlink(self, gone: Sequence[BlockProof]) -> None:
        for proof in gone:
            unlink(self._path(proof))

    def _write(self, proof: BlockProof) -> None:
        with self._lock:
            content = self._waiting.get(proof)
        if content is None:
            return
        self._pause()
        size = 0
        try:
            whole = self._form.pack(proof, content)
            write_whole(self._path(proof), whole)
            size = len(whole)
        finally:
            self._entered(proof, content, size)

    def _entered(self, proof: BlockProof, content: bytes, size: int) -> None:
        """A file of ``size`` bytes with ``content`` was written; 0: it was not."""
        with self._lock:
            wanted = self._waiting.get(proof) is content  # else it was forgotten while it was written
            if wanted and size:
                self._files[proof] = size
                self._bytes += size
            unwanted = [*([] if wanted else [proof]), *self._surplus()]
        for gone in unwanted:
            unlink(self._path(gone))
        with self._lock:
            if self._waiting.get(proof) is content:
                del self._waiting[proof]
                self._waiting_bytes -= len(content)

    def _surplus(self) -> list[BlockProof]:
        """Take the oldest off the list until the rest fits; their files must go."""
        unwanted: list[BlockProof] = []
        while self._bytes > self.capacity:
            oldest = next(iter(self._files))
            self._forget(oldest)
            unwanted.append(oldest)
        return unwanted

    def _used(self, proofs: Sequence[BlockProof]) -> None:
        with self._lock:
            self._use(proofs)

    def _use(self, proofs: Sequence[BlockProof]) -> None:
        """A conversation's blocks are the last to go, and the first of them the very last."""
        for proof in reversed(proofs):
            if proof in self._files:
                self._files.move_to_end(proof)

    # -- files --------------------------------------------------------------------------------------------------------

    def _drop(self, proof: BlockProof) -> None:
        if (content := self._waiting.pop(proof, None)) is not None:
            self._waiting_bytes -= len(content)
        self._forget(proof)

    def _forget(self, proof: BlockProof) -> None:
        self._bytes -= self._files.pop(proof, 0)

    def _path(self, proof: BlockProof) -> Path:
        name = proof.hex()
        return self.folder / name[:2] / (name + SUFFIX)

    def _scan(self) -> Iterator[tuple[BlockProof, int]]:
        """The files that are there, the oldest first; what a crash left half written is deleted.

        Raises:
            OSError: the folder cannot be read.
        """
        found: list[tuple[int, BlockProof, int]] = []
        # Path.glob tells nothing of what it cannot list.
        for path in [path for folder in self.folder.iterdir() if folder.is_dir() for path in folder.iterdir()]:
            if path.suffix == PART:
                unlink(path)
            elif path.suffix == SUFFIX and (proof := _proof(path.stem)):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    if not isinstance(self._form, Plain) and not _begins(path, self._form.magic):
                        unlink(path)
                        continue
                    found.append((stat.st_mtime_ns, proof, stat.st_size))
        return ((proof, size) for _, proof, size in sorted(found))


def claim(folder: Path) -> int:
    """Make the folder and take it for this process; the descriptor holds the claim.

    Raises:
        OSError: it cannot be made, or (BlockingIOError) another process has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError(f"another server uses {folder}") from None
    return descriptor


def _is_power_of_2(count: int) -> bool:
    """When to speak of what may happen thousands of times."""
    return count & (count - 1) == 0


def _proof(name: str) -> BlockProof | None:
    try:
        raw = bytes.fromhex(name)
    except ValueError:
        return None
    return BlockProof(raw) if len(raw) == 32 else None


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
