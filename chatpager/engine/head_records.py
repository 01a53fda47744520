"""Which blocks each conversation consists of, in files beside the blocks: to say after a restart how warm it is, and to
delete a conversation's blocks with it. Who does not know the server's secret cannot tell by a record whose it is."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import xxhash

from chatpager.engine.block_hash import BlockProof
from chatpager.engine.whole_file import RUN_OUT, unlink, write_whole

MAGIC = b"chatpager hd\x00\x01"
HEADER = struct.Struct(f"<{len(MAGIC)}s32s16s")
"""Magic and version, domain (model and layout), xxh3-128 of the proofs that follow."""
SUFFIX = ".head"
PROOF_BYTES = 32
MARK_BYTES = 16
"""Of a name: its tenant's."""
SEPARATOR = "-"
MAX_RECORDS = 1 << 14
"""Kept from one start to the next, the latest."""


@dataclass(frozen=True)
class Record:
    domain: BlockProof
    proofs: tuple[BlockProof, ...]


class HeadRecords:
    """``domain``: that of the model that is served, the salt apart. ``key`` hides whose the records are.

    Raises:
        OSError: it cannot be told which there are; blocks that none of them names would be taken for nobody's.
    """

    def __init__(self, folder: Path, domain: BlockProof, key: bytes = b"") -> None:
        self.folder = folder
        self.domain = domain
        self._key = key
        self._holders: Counter[BlockProof] = Counter()
        """Conversations that have a block."""
        self._found: list[tuple[BlockProof, ...]] = []
        """What conversations with this model had at the start, until ``warm_fraction`` was asked for."""
        for path in self._latest():
            if record := _read(path):
                self._holders.update(record.proofs)
                self._found += [record.proofs] if record.domain == domain else []

    def __contains__(self, proof: BlockProof) -> bool:
        """Whether a conversation, with this model or another, is recorded as having this block."""
        return proof in self._holders

    def chains(self) -> Iterator[tuple[BlockProof, ...]]:
        """The same, the one that went on longest ago first."""
        return reversed(self._found)

    def warm_fraction(self, kept: Collection[BlockProof]) -> float | None:
        """Of the blocks that all conversations with this model had at the start, the share that can be brought back:
        those in ``kept`` with nothing missing before them. None where there are none."""
        chains, self._found = self._found, []
        total = sum(map(len, chains))
        return sum(1 for chain in chains for _ in takewhile(kept.__contains__, chain)) / total if total else None

    def _latest(self) -> list[Path]:
        """The latest records; the others are deleted, and those of earlier versions, which tell not whose they are."""
        aged: list[tuple[int, Path]] = []
        for path in self._paths():
            with suppress(FileNotFoundError):
                aged.append((path.stat().st_mtime_ns, path))
        paths = [path for _, path in sorted(aged, reverse=True)]
        latest = [path for path in paths if path.stem[2 * MARK_BYTES :].startswith(SEPARATOR)][:MAX_RECORDS]
        for path in set(paths).difference(latest):
            unlink(path)
        return latest

    def hold(self, proofs: Iterable[BlockProof]) -> None:
        """A conversation has these blocks, or is about to be recorded as having them."""
        self._holders.update(proofs)

    def names(self) -> set[str]:
        """Of all records that are there. Raises OSError."""
        return {path.stem for path in self._paths()}

    def name_of(self, owner: str) -> str:
        """Of a conversation's record."""
        tenant, _, _ = owner.partition("\0")
        return f"{self._mark(tenant)}{SEPARATOR}{called(owner)}"

    def write(self, owner: str, proofs: Sequence[BlockProof]) -> tuple[BlockProof, ...]:
        """Record what a conversation consists of now. Returns what it was recorded as having. Raises OSError."""
        path = self._path(self.name_of(owner))
        old = _read(path)
        body = b"".join(proofs)
        write_whole(path, HEADER.pack(MAGIC, self.domain, xxhash.xxh3_128_digest(body)) + body)
        return old.proofs if old is not None else ()

    def pop(self, name: str) -> tuple[BlockProof, ...]:
        """Delete a record. Returns what the conversation was recorded as having.

        Raises:
            OSError: it cannot be read just now, and is still there.
        """
        path = self._path(name)
        old = _read(path)
        unlink(path)
        return old.proofs if old is not None else ()

    def names_of_tenant(self, tenant: str) -> list[str]:
        """Of the records of all its conversations, whatever they were called. Raises OSError."""
        return [name for name in self.names() if name.startswith(self._mark(tenant) + SEPARATOR)]

    def read(self, owner: str) -> tuple[BlockProof, ...]:
        """What a conversation with this model consists of, as far as it is known."""
        try:
            record = _read(self._path(self.name_of(owner)))
        except OSError:
            return ()
        return record.proofs if record is not None and record.domain == self.domain else ()

    def let_go(self, proofs: Iterable[BlockProof]) -> list[BlockProof]:
        """A conversation no longer has these. Returns those that nobody has any more."""
        gone: list[BlockProof] = []
        for proof in proofs:
            self._holders[proof] -= 1
            if self._holders[proof] <= 0:
                del self._holders[proof]
                gone.append(proof)
        return gone

    def _paths(self) -> list[Path]:
        """Of all records that are there. Raises OSError, which ``Path.glob`` does not."""
        try:
            return [path for path in self.folder.iterdir() if path.suffix == SUFFIX]
        except FileNotFoundError:
            return []

    def _path(self, name: str) -> Path:
        return self.folder / (name + SUFFIX)

    def _mark(self, tenant: str) -> str:
        return hmac.digest(self._key, tenant.encode(), "sha256")[:MARK_BYTES].hex()


def called(owner: str) -> str:
    """The end of the name of a conversation's record, behind the last ``SEPARATOR``."""
    return hashlib.sha256(owner.encode()).hexdigest()


def _read(path: Path) -> Record | None:
    """None of a record that is not there, or not whole. Raises OSError where that cannot be told for now."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        if error.errno in RUN_OUT:
            raise
        return None
    if len(raw) < HEADER.size:
        return None
    magic, domain, checksum = HEADER.unpack_from(raw)
    body = raw[HEADER.size :]
    if magic != MAGIC or len(body) % PROOF_BYTES or checksum != xxhash.xxh3_128_digest(body):
        return None
    proofs = (BlockProof(body[i : i + PROOF_BYTES]) for i in range(0, len(body), PROOF_BYTES))
    return Record(BlockProof(domain), tuple(proofs))
