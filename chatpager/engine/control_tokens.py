"""The added tokens that steer a model, and how a text that merely spells one is told from the template's own.

Spelled-out tokens are replaced by a mark: their text as hexadecimal digits between two noncharacters. A template can
cut a mark, but not so that it sets the token's text free.
"""

from __future__ import annotations

import re

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

GUARD_OPEN, GUARD_CLOSE = "\ufdd0", "\ufdd1"
SLOT_OPEN, SLOT_CLOSE = "\ufdd2", "\ufdd3"
"""Noncharacters, which no text holds: around a token that a message spells out, and around the number of a message
whose ids are known (``chat_template``)."""
_NONCHARACTERS = re.compile("[\ufdd0-\ufdd3]")
_MARK = re.compile(f"{GUARD_OPEN}((?:[0-9a-f]{{2}})+){GUARD_CLOSE}")
_RESERVED = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)


class ControlTokens:
    """Some of a backend's added tokens. ``lookalikes``: text may become one of them without spelling it, because the
    text is normalised first or because the model's own vocabulary holds the token."""

    def __init__(self, backend: Backend, tokens: dict[int, AddedToken]) -> None:
        self.ids = frozenset(tokens)
        texts = sorted({t.content for t in tokens.values()}, key=len, reverse=True)
        self._spelled = re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")
        self.lookalikes = any(
            backend.model.token_to_id(t.content) is not None or (t.normalized and backend.normalizer is not None)
            for t in tokens.values()
        )

    def split(self, text: str) -> list[str]:
        """``text`` in pieces of which every second spells a token."""
        return self._spelled.split(text)


def special(backend: Backend) -> ControlTokens:
    """Those that tokenizer.json marks as special; transformers adds the ones that only the configuration names."""
    return ControlTokens(backend, {i: t for i, t in _added(backend).items() if t.special})


def steering(backend: Backend, template: str) -> ControlTokens:
    """The special tokens, and of the other added ones those that the template writes (Qwen's ``<think>``) or that have
    the form reserved for such, ``<|...|>``. The rest is vocabulary: runs of spaces, HTML tags."""

    def steers(token: AddedToken) -> bool:
        text = token.content
        in_template = text in template and any(not c.isalnum() and not c.isspace() for c in text)
        return token.special or in_template or _RESERVED.fullmatch(text) is not None

    return ControlTokens(backend, {i: t for i, t in _added(backend).items() if steers(t)})


def _added(backend: Backend) -> dict[int, AddedToken]:
    """The added tokens, but for single characters: a configuration that pads with "!" makes it no mark."""
    return {i: t for i, t in backend.get_added_tokens_decoder().items() if len(t.content) > 1}


def without_noncharacters(text: str) -> str:
    return _NONCHARACTERS.sub("", text)


def mark(spelled: str) -> str:
    return f"{GUARD_OPEN}{spelled.encode().hex()}{GUARD_CLOSE}"


def split_marks(text: str) -> list[str]:
    """``text`` in pieces of which every second was marked, each as its author wrote it."""
    pieces = _MARK.split(text)
    pieces[1::2] = [bytes.fromhex(p).decode(errors="replace") for p in pieces[1::2]]
    return pieces
