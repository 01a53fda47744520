"""Which blocks each conversation consists of, in files beside the blocks: to say after a restart how warm it is, and to
delete a conversation's blocks with it. A record's name tells nothing of whose it is."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from chatpager.engine.block_hash import BlockProof
from chatpager.engine.whole_file import unlink, write_whole

MAGIC = b"chatpager hd\x00\x01"
HEADER = struct.Struct(f"<{len(MAGIC)}s32s16s")
"""Magic and version, domain (model and layout), xxh3-128 of the proofs that follow."""
SUFFIX = ".head"
PROOF_BYTES = 32
MAX_RECORDS = 1 << 14
"""Kept from one start to the next, the latest."""


@dataclass(frozen=True)
class Record:
    domain: BlockProof
    proofs: tuple[BlockProof, ...]


class HeadRecords:
    """``domain``: that of the model that is served, the salt apart."""

    def __init__(self, folder: Path, domain: BlockProof) -> None:
        self.folder = folder
        self.domain = domain

    def write(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """Raises OSError."""
        body = b"".join(proofs)
        write_whole(self._path(owner), HEADER.pack(MAGIC, self.domain, xxhash.xxh3_128_digest(body)) + body)

    def pop(self, owner: str) -> frozenset[BlockProof]:
        """Delete a record. Returns the blocks that no other conversation has. Raises OSError."""
        path = self._path(owner)
        mine = _read(path)
        unlink(path)
        if mine is None:
            return frozenset()
        others = {proof for record in self._all() for proof in record.proofs}
        return frozenset(mine.proofs) - others

    def warm_fraction(self, kept: Collection[BlockProof]) -> float | None:
        """Of the blocks of all conversations with this model, the share that can be brought back: those in ``kept``
        with nothing missing before them. None where there are none."""
        found = total = 0
        for record in self._all():
            if record.domain != self.domain:
                continue
            total += len(record.proofs)
            for proof in record.proofs:
                if proof not in kept:
                    break
                found += 1
        return found / total if total else None

    def prune(self) -> None:
        """Delete all but the latest records. Raises OSError."""
        paths = sorted(self.folder.glob("*" + SUFFIX), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in paths[MAX_RECORDS:]:
            unlink(path)

    def _all(self) -> Iterator[Record]:
        for path in self.folder.glob("*" + SUFFIX):
            if (record := _read(path)) is not None:
                yield record

    def _path(self, owner: str) -> Path:
        return self.folder / (hashlib.sha256(owner.encode()).hexdigest() + SUFFIX)


def _read(path: Path) -> Record | None:
    """None of a record that is not there, or not whole."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if len(raw) < HEADER.size:
        return None
    magic, domain, checksum = HEADER.unpack_from(raw)
    body = raw[HEADER.size :]
    if magic != MAGIC or len(body) % PROOF_BYTES or checksum != xxhash.xxh3_128_digest(body):
        return None
    proofs = (BlockProof(body[i : i + PROOF_BYTES]) for i in range(0, len(body), PROOF_BYTES))
    return Record(BlockProof(domain), tuple(proofs))
