"""Answers of GPT-OSS (OpenAI's harmony format): messages in channels, each with a header and a body.

``analysis`` is what is thought, ``final`` and what precedes calls on ``commentary`` is what is said; a message to
``functions.NAME`` calls a tool, with its arguments as the body. The prompt ends inside the first header. Headers are
told from bodies by special tokens alone.
"""

from __future__ import annotations

import re
from collections.abc import Container
from enum import Enum, auto

from chatpager.engine.answer_marks import mark
from chatpager.engine.tool_calls import CallDelta, CallEnd, CallStart, Piece, Thought

TOKENS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
ASKS_IN_CHANNELS = ("<|channel|>", "<|message|>")
"""Templates that have these ask for such answers."""
START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN = map(mark, TOKENS)
_MARK = re.compile(f"[{''.join(map(mark, TOKENS))}]")
_RECIPIENT = re.compile(r"to=functions\.([a-zA-Z0-9_-]{1,64})(?![\w.-])")
_CHANNEL = re.compile(rf"{CHANNEL}\s*(\w+)")


class _In(Enum):
    BEGINNING = auto()
    HEADER = auto()
    THOUGHT = auto()
    TEXT = auto()
    CALL = auto()


class HarmonyParser:
    """``names``: of the tools that may be called. The answer's messages are joined: what is said in several has an
    empty line between, and so has what is thought in several that follow each other."""

    def __init__(self, names: Container[str] = ()) -> None:
        self._names = names
        self._in = _In.BEGINNING
        self._header = ""
        self._last: _In | None = None
        """The body in which something was told last."""
        self._said = False
        self._separate = ""
        self._arguments = False
        """Whether the call has any so far."""

    @property
    def is_thinking(self) -> bool:
        channel = _CHANNEL.search(self._header) if self._in is _In.HEADER else None
        return self._in is _In.THOUGHT or (channel is not None and channel[1] == "analysis")

    @property
    def held(self) -> int:
        return len(self._header) if self._in is _In.BEGINNING else 0

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        start = 0
        for found in _MARK.finditer(text):
            pieces += self._take(text[start : found.start()])
            pieces += self._at_mark(found[0])
            start = found.end()
        return [*pieces, *self._take(text[start:])]

    def finish(self) -> list[Piece]:
        was_in, header = self._in, self._header
        self._in, self._header = _In.HEADER, ""
        if was_in is _In.CALL:
            return [CallEnd()]
        return [header] if was_in is _In.BEGINNING and header else []

    def _take(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self._in is _In.BEGINNING:
            self._header += text
            if self._header.strip() and not "to=".startswith(self._header.strip()[:3]):
                text, self._header, self._in = self._header, "", _In.TEXT  # an answer without a header
        match self._in:
            case _In.HEADER:
                self._header += text
            case _In.THOUGHT:
                return [Thought(self._separated(text))]
            case _In.TEXT:
                return [self._separated(text)]
            case _In.CALL:
                self._arguments = self._arguments or bool(text.strip())
                return [CallDelta(text)]
        return []

    def _separated(self, text: str) -> str:
        separate, self._separate = self._separate, ""
        self._last, self._said = self._in, self._said or self._in is _In.TEXT
        return separate + text

    def _at_mark(self, token: str) -> list[Piece]:
        if token == MESSAGE and self._in in (_In.BEGINNING, _In.HEADER):
            return self._open_body()
        if token in (CHANNEL, CONSTRAIN) and self._in in (_In.BEGINNING, _In.HEADER):
            self._in, self._header = _In.HEADER, self._header + token
            return []
        pieces: list[Piece] = []
        if self._in is _In.CALL and token in (END, CALL, RETURN, START):
            pieces = [*([] if self._arguments else [CallDelta("{}")]), CallEnd()]
        if token in (END, CALL, RETURN, START):
            self._in, self._header = _In.HEADER, ""
        return pieces

    def _open_body(self) -> list[Piece]:
        header, self._header = self._header, ""
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient and recipient[1] in self._names:
            self._in, self._last, self._arguments = _In.CALL, _In.CALL, False
            return [CallStart(recipient[1])]
        self._in = _In.THOUGHT if channel and channel[1] == "analysis" else _In.TEXT
        again = self._said if self._in is _In.TEXT else self._last is _In.THOUGHT
        self._separate = "\n\n" if again else ""
        return []
