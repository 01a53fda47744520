"""What a token stands for, by itself: its bytes, and a text that shows them.

A decoder makes text of many tokens; one alone may be part of a character, or have a space at its beginning that the
decoder takes off. Of byte-level vocabularies and those with byte fallback the bytes are exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

WORD_START = "▁"
CACHED = 1 << 16
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Spelled(NamedTuple):
    """``text`` is the bytes' own, or names them where they are no characters, as OpenAI does."""

    text: str
    bytes: bytes


class TokenSpelling:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._added = {i: token.content for i, token in backend.get_added_tokens_decoder().items()}
        kinds = set(_kinds(json.loads(backend.to_str())["decoder"]))
        self._byte_level = "ByteLevel" in kinds
        self._word_starts = not kinds.isdisjoint({"Metaspace", "Replace"})
        self._fallback = "ByteFallback" in kinds
        self.spell = lru_cache(CACHED)(self._spell)

    def _spell(self, token_id: int) -> Spelled:
        found = self._bytes(token_id)
        try:
            return Spelled(found.decode(), found)
        except UnicodeDecodeError:
            return Spelled("bytes:" + "".join(f"\\x{byte:02x}" for byte in found), found)

    def _bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id) or ""
        if self._byte_level and all(c in _BYTE_OF for c in token):
            return bytes(_BYTE_OF[c] for c in token)
        if self._fallback and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return (token.replace(WORD_START, " ") if self._word_starts else token).encode()


def _kinds(decoder: dict[str, Any] | None) -> Iterator[str]:
    if decoder:
        yield decoder["type"]
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with: a byte's own where that can be seen, and for the
    others, in their order, those from U+0100 on (GPT-2's)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(unseen)}


_BYTE_OF = _byte_level_alphabet()
