"""Calls in an answer's text, told while they are generated; the same ones however the text was cut.

A call begins once its head was read exactly: what opens it, the name of a tool that was offered, the brace of its
arguments. From then on it cannot be taken back, so what could not become such a head is text. Arguments are told as
they come. Where they stop being JSON they are told all the same, up to what closes the call: whoever asked for it sees
all that was written. It ends without being whole then, as one does that the answer's end cuts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from chatpager.engine.call_bodies import CallBody, JsonBody, undecided
from chatpager.engine.tool_calls import CallDelta, CallStart, Piece


class AnswerParser(Protocol):
    """Text as it is generated in, what it says out; the same, joined, however the text was cut."""

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thought."""

    @property
    def held(self) -> int:
        """Characters at the end of what was pushed that may still be told as text."""

    def push(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


class AnyName:
    """Every name is a known one."""

    def __contains__(self, name: object) -> bool:
        return True


@dataclass(frozen=True)
class Pattern:
    """A part of a shape that is no literal."""

    regex: str


SPACE = Pattern(r"[ \t\n\r]*")
NAMED = Pattern(r"(?P<name>[a-zA-Z0-9_-]{1,64})")


class Shape:
    """Literals and patterns one after the other: whether a text begins so, or could still come to."""

    def __init__(self, *parts: str | Pattern) -> None:
        atoms = [atom for part in parts for atom in _atoms(part)]
        self._whole = re.compile("".join(atoms))
        beginning = ""
        for atom in reversed(atoms):
            beginning = f"(?:{atom}{beginning})?"
        self._beginning = re.compile(beginning)

    def match(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._whole.match(text, at)

    def may_become(self, text: str, at: int = 0) -> bool:
        return self._beginning.fullmatch(text, at) is not None


def _atoms(part: str | Pattern) -> list[str]:
    return [part.regex] if isinstance(part, Pattern) else [re.escape(char) for char in part]


def object_head(arguments: str = "arguments") -> tuple[str | Pattern, ...]:
    """A call's JSON object up to the brace of its arguments."""
    name = ("{", SPACE, '"name"', SPACE, ":", SPACE, '"', NAMED, '"', SPACE, ",", SPACE)
    return (*name, f'"{arguments}"', SPACE, ":", SPACE, "{")


@dataclass(frozen=True)
class CallForm:
    """``opens`` begins a call, or the first of several; heads end with the brace of the arguments, which are a member
    of an object (``in_object``) or stand by themselves. Behind a call there is what ``closes`` it, or the head of the
    ``next``. ``ends``: before this a call ends whose arguments are no JSON; None: with the answer."""

    opens: str
    first: Shape
    closes: Shape | None = None
    next: Shape | None = None
    in_object: bool = True
    ends: str | None = None


class FormParser:
    """Space around calls belongs to them, so space is held back until it is known what follows it."""

    is_thinking = False

    def __init__(self, form: CallForm, names: Container[str] | None = None) -> None:
        self.form = form
        self._names = AnyName() if names is None else names
        self._held = ""
        self._called = False
        self._body: CallBody | None = None
        """Of the call that is being read."""
        self._behind = False
        """Whether a call has just ended."""

    @property
    def held(self) -> int:
        return len(self._held)

    def push(self, text: str) -> list[Piece]:
        self._held += text
        return list(self._read())

    def finish(self) -> list[Piece]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        if self._body:
            body, self._body = self._body, None
            return body.finish(held)
        if self._behind and self.form.closes and self.form.closes.may_become(held):
            return []
        return self._rest(held)

    def _rest(self, held: str) -> list[Piece]:
        return [held] if held.strip() or (held and not self._called) else []

    def _read(self) -> Iterator[Piece]:
        went_on = True
        while self._held and went_on:
            if self._body:
                yield from self._in_call(self._body)
                went_on = self._body is None
            elif self._behind:
                went_on = yield from self._go_on_behind()
            else:
                went_on = yield from self._in_text()

    # -- text ---------------------------------------------------------------------------------------------------------

    def _in_text(self) -> Generator[Piece, None, bool]:
        opens = self.form.opens
        start = self._held.find(opens)
        if start < 0:
            yield from self._text(len(self._held) - undecided(self._held, opens))
            return False
        if before := self._held[:start].rstrip():
            yield from self._text(len(before))
            start = self._held.find(opens)
        head = self.form.first.match(self._held, start)
        if head and head["name"] in self._names:
            yield from self._begin(head)
            return True
        if self.form.first.may_become(self._held, start):
            return False
        return (yield from self._otherwise(start))

    def _otherwise(self, start: int) -> Generator[Piece, None, bool]:
        """What opens there is no head of a call. Returns whether to go on."""
        yield from self._text(start + len(self.form.opens))
        return True

    def _text(self, count: int) -> Iterator[str]:
        if count:
            yield self._held[:count]
            self._held = self._held[count:]

    # -- calls --------------------------------------------------------------------------------------------------------

    def _begin(self, head: re.Match[str]) -> Iterator[Piece]:
        self._body = self._body_of(head)
        self._called, self._behind = True, False
        self._held = self._held[head.end() :]
        yield CallStart(head["name"])
        yield CallDelta("{")

    def _body_of(self, head: re.Match[str]) -> CallBody:
        """What reads the call from the brace of its arguments on."""
        return JsonBody(head[0][head[0].index("{") :] if self.form.in_object else "{", self.form.ends)

    def _in_call(self, body: CallBody) -> Iterator[Piece]:
        pieces, self._held = body.read(self._held)
        yield from pieces
        if body.ended:
            self._body, self._behind = None, True

    def _go_on_behind(self) -> Generator[Piece, None, bool]:
        form = self.form
        if form.closes and (closed := form.closes.match(self._held)):
            self._held, self._behind = self._held[closed.end() :], False
        elif form.next and (head := form.next.match(self._held)) and head["name"] in self._names:
            yield from self._begin(head)
        elif any(shape and shape.may_become(self._held) for shape in (form.closes, form.next)):
            return False
        else:
            self._behind = False
        return True
