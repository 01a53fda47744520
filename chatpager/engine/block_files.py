"""What a file of the disk tier holds: a header, and a block's content behind it, as it is or sealed.

What is altered, short or another block's is nothing, and so is what was sealed with another key. A sealed block is
encrypted with AES-256-GCM, its header being authenticated with it; nonces are random, which is safe for some four
billion blocks of one key.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import xxhash

from chatpager.engine.block_hash import BlockProof
from chatpager.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"chatpager kv\x00\x01"
HEADER = struct.Struct(f"<{len(MAGIC)}s32sQ16s")
"""Magic and version, proof, length of the content in bytes, its xxh3-128."""
SEALED_MAGIC = b"chatpager kv\x01\x01"
SEALED = struct.Struct(f"<{len(SEALED_MAGIC)}s32sQ12s")
"""The same, with the nonce in place of the checksum."""
TAG_BYTES = 16
LEAST_KEY = 32
"""Bytes of a key file."""


class BlockFile(Protocol):
    """One way to write them."""

    magic: bytes

    def pack(self, proof: BlockProof, content: bytes) -> bytes:
        """All of the file."""

    def unpack(self, raw: bytes, proof: BlockProof) -> bytes | None:
        """The content of a file, if all of it is as its header says, and the header is this block's."""


class Plain:
    magic = MAGIC

    def pack(self, proof: BlockProof, content: bytes) -> bytes:
        return HEADER.pack(MAGIC, proof, len(content), _checksum(content)) + content

    def unpack(self, raw: bytes, proof: BlockProof) -> bytes | None:
        if len(raw) < HEADER.size:
            return None
        magic, name, length, checksum = HEADER.unpack_from(raw)
        content = raw[HEADER.size :]
        whole = magic == MAGIC and name == proof and length == len(content) and checksum == _checksum(content)
        return content if whole else None


class Sealed:
    magic = SEALED_MAGIC

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher

    def pack(self, proof: BlockProof, content: bytes) -> bytes:
        nonce = os.urandom(12)
        header = SEALED.pack(SEALED_MAGIC, proof, len(content), nonce)
        return header + self._cipher.encrypt(nonce, content, header)

    def unpack(self, raw: bytes, proof: BlockProof) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        if len(raw) < SEALED.size + TAG_BYTES:
            return None
        magic, name, length, nonce = SEALED.unpack_from(raw)
        if (magic, name, length) != (SEALED_MAGIC, proof, len(raw) - SEALED.size - TAG_BYTES):
            return None
        try:
            return self._cipher.decrypt(nonce, raw[SEALED.size :], raw[: SEALED.size])
        except InvalidTag:
            return None


def sealed_by(key_file: str) -> Sealed:
    """With the key that is in this file.

    Raises:
        ConfigError: it cannot be read, others may read it, it holds too little, or ``cryptography`` is missing.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        problem = "needs the package cryptography: pip install chatpager[encryption]"
        raise ConfigError("kv_key_file", problem, value=key_file) from error
    try:
        with open(Path(key_file).expanduser(), "rb") as file:
            mode, key = os.fstat(file.fileno()).st_mode, file.read().strip()
    except OSError as error:
        raise ConfigError("kv_key_file", f"cannot be read: {error.strerror}", value=key_file) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError("kv_key_file", f"others may read it: chmod 600 {key_file}", value=key_file)
    if len(key) < LEAST_KEY:
        problem = f"holds fewer than {LEAST_KEY} bytes; to make one: openssl rand -hex 32"
        raise ConfigError("kv_key_file", problem, value=key_file)
    return Sealed(AESGCM(hashlib.sha256(b"chatpager kv\0" + key).digest()))


def _checksum(content: bytes) -> bytes:
    return xxhash.xxh3_128_digest(content)
