"""What a model thinks before it answers, told apart from the answer: ``<think>`` ... ``</think>`` at its beginning.

Some templates open the block themselves, so that the answer begins with what is thought. Space around the tags belongs
to them.
"""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from chatpager.engine.call_bodies import undecided
from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.tool_calls import Piece, Thought


class Tags(msgspec.Struct, frozen=True):
    """What stands around thoughts."""

    opens: str
    closes: str


THINK = Tags("<think>", "</think>")
MISTRAL_THINK = Tags("[THINK]", "[/THINK]")


def tags_of(template: str) -> Tags | None:
    """Those that a model with this chat template thinks in; None of one that does not."""
    return next((tags for tags in (THINK, MISTRAL_THINK) if tags.closes in template or tags.opens in template), None)


class _At(Enum):
    BEGINNING = auto()
    OPENED = auto()
    THINKING = auto()
    BEHIND = auto()
    TEXT = auto()


class ThinkParser:
    """Thoughts, and then what ``inner`` makes of the rest; without an ``inner`` that is text. ``opened``: the prompt
    ends with the opening tag."""

    def __init__(self, tags: Tags, inner: AnswerParser | None = None, *, opened: bool = False) -> None:
        self._tags = tags
        self._inner = inner
        self._at = _At.OPENED if opened else _At.BEGINNING
        self._held = ""
        self._thought = False

    @property
    def is_thinking(self) -> bool:
        return self._at in (_At.OPENED, _At.THINKING)

    @property
    def held(self) -> int:
        return len(self._held) + (self._inner.held if self._inner else 0)

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        at = None
        while self._held and at is not self._at:
            at = self._at
            pieces += self._step()
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        pieces: list[Piece] = []
        if self.is_thinking:
            pieces += [Thought(held)] if held.strip() else []
        elif held and self._at is _At.BEGINNING:
            pieces += self._rest(held)
        return [*pieces, *(self._inner.finish() if self._inner else [])]

    def _step(self) -> list[Piece]:
        match self._at:
            case _At.BEGINNING | _At.OPENED:
                self._begin()
            case _At.THINKING:
                return self._think()
            case _At.BEHIND:
                self._held = self._held.lstrip()
                self._at = _At.TEXT if self._held else _At.BEHIND
            case _At.TEXT:
                held, self._held = self._held, ""
                return self._rest(held)
        return []

    def _rest(self, text: str) -> list[Piece]:
        return [*self._inner.push(text)] if self._inner else [text]

    def _begin(self) -> None:
        said = self._held.lstrip()
        if said.startswith(self._tags.opens):
            self._held, self._at = said.removeprefix(self._tags.opens), _At.THINKING
        elif not self._tags.opens.startswith(said):
            self._at = _At.THINKING if self._at is _At.OPENED else _At.TEXT

    def _think(self) -> list[Piece]:
        if not self._thought:
            self._held = self._held.lstrip()
        closes = self._tags.closes
        end = self._held.find(closes)
        if end >= 0:
            said, self._held, self._at = self._held[:end].rstrip(), self._held[end + len(closes) :], _At.BEHIND
        else:
            certain = len(self._held) - undecided(self._held, closes)
            said, self._held = self._held[:certain], self._held[certain:]
        self._thought = self._thought or bool(said)
        return [Thought(said)] if said else []
