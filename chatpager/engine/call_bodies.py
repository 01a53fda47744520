"""What stands behind the head of a call and the brace of its arguments: these, told as they come, and what follows."""

from __future__ import annotations

from typing import Protocol

from chatpager.engine.json_scanner import JsonObject
from chatpager.engine.tool_calls import CallDelta, CallEnd, Piece


class CallBody(Protocol):
    """``ended``: nothing that comes belongs to it."""

    ended: bool

    def read(self, held: str) -> tuple[list[Piece], str]:
        """What a text says, and what of it must be held back until more comes, or does not belong to it."""

    def finish(self, held: str) -> list[Piece]:
        """The end where the answer ends before the call."""


class JsonBody:
    """``head``: what was read of the call's object, or else the brace of the arguments alone. ``ends``: before this a
    call ends whose arguments are no JSON; None: with the answer."""

    def __init__(self, head: str, ends: str | None) -> None:
        self._json = JsonObject()
        for char in head[:-1]:
            self._json.push(char)
        self._depth = self._json.depth
        """Outside the arguments."""
        self._json.push(head[-1])
        self._ends = ends
        self._telling = True
        """Whether the arguments are not at their end."""
        self.ended = False

    def read(self, held: str) -> tuple[list[Piece], str]:
        pieces: list[Piece] = []
        end = 0
        while end < len(held) and not self._json.ended and self._json.push(held[end]):
            end += 1
            if self._telling and self._json.depth == self._depth:
                pieces += [*_delta(held[:end]), CallEnd()]
                self._telling, held, end = False, held[end:], 0
        if self._telling and self._json.broken:
            more, held = self._broken(held, end)
            pieces += more
        elif self._telling:
            pieces += _delta(held)
            held = ""
        else:
            held = held[end:]
        self.ended = not self._telling and (self._json.ended or self._json.broken)
        return pieces, held

    def finish(self, held: str) -> list[Piece]:
        return [*_delta(held), CallEnd()] if self._telling else []

    def _broken(self, held: str, valid: int) -> tuple[list[Piece], str]:
        """The arguments are told as they stand up to what ends the call. ``valid``: so much of what is held was not
        told when the mistake came."""
        found = held.find(self._ends, valid) if self._ends else -1
        if found < 0:
            end = len(held) - (undecided(held, self._ends) if self._ends else 0)
            return _delta(held[:end]), held[end:]
        end = len(held[:found].rstrip())
        self._telling = False
        return [*_delta(held[:end]), CallEnd()], held[end:]


def _delta(text: str) -> list[Piece]:
    return [CallDelta(text)] if text else []


def undecided(text: str, opens: str) -> int:
    """Length of the end of ``text`` that may belong to what ``opens``: its beginning, and space before it."""
    begun = next((n for n in range(min(len(text), len(opens) - 1), 0, -1) if text.endswith(opens[:n])), 0)
    return len(text) - len(text[: len(text) - begun].rstrip())
