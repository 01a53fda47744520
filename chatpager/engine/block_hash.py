"""Names of KV blocks: ``hash(parent block, its tokens)``, so equal prefixes have equal names by construction.

The root of a chain is the hash of everything that changes what the keys and values are: model, KV dtype and layout,
block size, rotary and window configuration, model epoch, and the tenant's salt. Two sequences with different roots
share no block. A chain may begin in a domain that all tenants share, with what was published (``published``), and go on
in the tenant's own. xxHash is fast and not collision-proof, so a hit compares the token ids too (``prefix_cache``).
Where there is nothing to compare with, in host memory and on disk, a block goes by its proof: the SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from copy import copy
from typing import NewType, Self

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

    __slots__ = ("_bytes", "_mask", "_name_border", "_proof_border", "block_size", "domain", "proof", "root", "tenant")

    def __init__(self, domain: Iterable[tuple[str, Field]], block_size: int, *, bits: int = 128) -> None:
        self.block_size = block_size
        self._bytes = (bits + 7) // 8
        self._mask = (1 << bits) - 1
        fields = encode_fields([("block_size", block_size), *domain])
        self.root = self._digest(fields)
        self.proof = BlockProof(hashlib.sha256(fields).digest())
        """Of the empty prefix."""
        self.tenant, self.domain = self.root, self.proof
        """Whose domain it is, also where a chain begins with what is everybody's."""
        self._name_border: tuple[BlockHash | None, BlockHash] = (None, self.root)
        """The last public block, and what stands for it as the parent of the first block behind it."""
        self._proof_border: tuple[BlockProof | None, BlockProof] = (None, self.proof)

    def behind(self, public: BlockHasher, name: BlockHash, proof: BlockProof) -> Self:
        """The chain that begins in the ``public`` domain, up to the block with this name and proof, and goes on in this
        one: what stands behind that block has no name and no proof that another domain could give."""
        joined = copy(self)
        joined.root, joined.proof = public.root, public.proof
        fields = encode_fields([("public", name), ("tenant", self.root)])
        joined._name_border = (name, self._digest(fields))
        fields = encode_fields([("public", proof), ("tenant", self.proof)])
        joined._proof_border = (proof, BlockProof(hashlib.sha256(fields).digest()))
        return joined

    def chain(self, parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
        """Name of the block that holds ``token_ids`` (one full block) after ``parent``."""
        assert len(token_ids) == self.block_size, (len(token_ids), self.block_size)
        return self._name(parent, token_ids)

    def tail(self, parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
        """Name of a block that ``token_ids`` do not fill; as the count differs, no full block is named of the same."""
        assert 0 < len(token_ids) < self.block_size, (len(token_ids), self.block_size)
        return self._name(parent, token_ids)

    def _name(self, parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
        last_public, own = self._name_border
        parent = own if parent == last_public else parent
        return self._digest(parent + struct.pack(f"<{len(token_ids)}I", *token_ids))

    def prove(self, parent: BlockProof, token_ids: Sequence[int]) -> BlockProof:
        """The proof of the block that holds ``token_ids`` after the prefix that ``parent`` is the proof of."""
        last_public, own = self._proof_border
        parent = own if parent == last_public else parent
        return BlockProof(hashlib.sha256(parent + struct.pack(f"<{self.block_size}I", *token_ids)).digest())

    def _digest(self, data: bytes) -> BlockHash:
        digest = xxhash.xxh3_128_digest(data)
        if self._bytes == 16:
            return BlockHash(digest)
        return BlockHash((int.from_bytes(digest, "big") & self._mask).to_bytes(self._bytes, "big"))
