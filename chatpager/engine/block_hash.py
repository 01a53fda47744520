"""Names of KV blocks: ``hash(parent block, its tokens)``, so equal prefixes have equal names by construction.

The root of a chain is the hash of everything that changes what the keys and values are: model, KV dtype and layout,
block size, rotary and window configuration, model epoch, and the tenant's salt. Two sequences with different roots
share no block. xxHash is fast and not collision-proof, so a hit compares the token ids too (``prefix_cache``). Where
there is nothing to compare with, in host memory and on disk, a block goes by its proof: the SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import NewType

import xxhash

BlockHash = NewType("BlockHash", bytes)
BlockProof = NewType("BlockProof", bytes)
Field = str | bytes | int


def encode_fields(fields: Iterable[tuple[str, Field]]) -> bytes:
    """Named fields, each typed and length-prefixed, so that no two lists of fields have the same bytes."""
    out = bytearray()
    for name, value in fields:
        for part in (name, value):
            tag, raw = _tagged(part)
            out += tag + len(raw).to_bytes(8, "little") + raw
    return bytes(out)


def _tagged(value: Field) -> tuple[bytes, bytes]:
    match value:
        case str():
            return b"s", value.encode()
        case bytes():
            return b"b", value
        case int():
            return b"i", str(value).encode()


class BlockHasher:
    """The chain of one domain (model, layout, salt). ``bits`` below 128 is for tests, which force collisions."""

    __slots__ = ("_bytes", "_mask", "block_size", "proof", "root")

    def __init__(self, domain: Iterable[tuple[str, Field]], block_size: int, *, bits: int = 128) -> None:
        self.block_size = block_size
        self._bytes = (bits + 7) // 8
        self._mask = (1 << bits) - 1
        fields = encode_fields([("block_size", block_size), *domain])
        self.root = self._digest(fields)
        self.proof = BlockProof(hashlib.sha256(fields).digest())
        """Of the empty prefix."""

    def chain(self, parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
        """Name of the block that holds ``token_ids`` (one full block) after ``parent``."""
        assert len(token_ids) == self.block_size, (len(token_ids), self.block_size)
        return self._digest(parent + struct.pack(f"<{self.block_size}I", *token_ids))

    def tail(self, parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
        """Name of a block that ``token_ids`` do not fill; as the count differs, no full block is named of the same."""
        assert 0 < len(token_ids) < self.block_size, (len(token_ids), self.block_size)
        return self._digest(parent + struct.pack(f"<{len(token_ids)}I", *token_ids))

    def prove(self, parent: BlockProof, token_ids: Sequence[int]) -> BlockProof:
        """The proof of the block that holds ``token_ids`` after the prefix that ``parent`` is the proof of."""
        return BlockProof(hashlib.sha256(parent + struct.pack(f"<{self.block_size}I", *token_ids)).digest())

    def _digest(self, data: bytes) -> BlockHash:
        digest = xxhash.xxh3_128_digest(data)
        if self._bytes == 16:
            return BlockHash(digest)
        return BlockHash((int.from_bytes(digest, "big") & self._mask).to_bytes(self._bytes, "big"))
