"""What an answer consists of: what it thought first, its text, and the tools that it calls; and how a message's content
says so.

An answer's content is its text, if it has any, and then its calls: what a client that sends a conversation back can
know of it. Where they stood in what was generated, and what was thought, the answer's ids say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from chatpager.engine.answer_marks import unmarked, with_tags_spelled
from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.tool_calls import CallDelta, CallEnd, CallStart, Piece, Thought, is_object
from chatpager.sessions.logprobs import Logprob
from chatpager.store import Content, text_content


class Delta(msgspec.Struct, frozen=True, tag="delta", gc=False):
    """Text that was added, never empty, and where they were asked for the logprobs of its tokens."""

    text: str
    logprobs: tuple[Logprob, ...] = ()


class CallBegun(msgspec.Struct, frozen=True, tag="call_begun"):
    """A tool is called; its arguments follow."""

    id: str
    name: str


class ToolCall(msgspec.Struct, frozen=True):
    """A tool that is called; ``arguments`` is the text of a JSON object, unless it was cut or went wrong."""

    id: str
    name: str
    arguments: str

    @property
    def is_whole(self) -> bool:
        return is_object(self.arguments)


Said = Thought | Delta | CallBegun | CallDelta | CallEnd


def joined(one: Said, other: Said) -> Said | None:
    """Both as one, where the ``other`` goes on with the same text, arguments or thought; None where it begins anew."""
    if isinstance(one, Delta) and isinstance(other, Delta):
        return Delta(one.text + other.text, one.logprobs + other.logprobs)
    if isinstance(one, Thought) and isinstance(other, Thought):
        return Thought(one.text + other.text)
    if isinstance(one, CallDelta) and isinstance(other, CallDelta):
        return CallDelta(one.arguments + other.arguments)
    return None


class Reasoning(NamedTuple):
    """What was thought in one go. ``place``: so much else of the answer began before it, its text, calls, thoughts."""

    place: int
    text: str


class Answer(NamedTuple):
    """``calls_before_text`` of the calls came before its first text."""

    text: str
    calls: tuple[ToolCall, ...]
    calls_before_text: int
    reasoning: tuple[Reasoning, ...] = ()


class AnswerReader:
    """Text as it was generated in, what it says out. Calls are named after the turn, so whoever reads its text again
    finds the same ones. Without a ``parser`` all is text."""

    __slots__ = ("_calls", "_name", "_parser")

    def __init__(self, turn_id: str, parser: AnswerParser | None) -> None:
        self._name = turn_id.partition("_")[2]
        self._parser = parser
        self._calls = 0

    @property
    def parses(self) -> bool:
        """Whether anything but text can come of it."""
        return self._parser is not None

    @property
    def is_thinking(self) -> bool:
        return self._parser is not None and self._parser.is_thinking

    @property
    def held(self) -> int:
        """Characters at the end of what was read that may still be told as text."""
        return self._parser.held if self._parser else 0

    def read(self, text: str) -> list[Said]:
        if self._parser is None:
            return [Delta(said)] if (said := unmarked(text)) else []
        return self._told(self._parser.push(with_tags_spelled(text)))

    def finish(self) -> list[Said]:
        """What was held back, now that nothing follows."""
        return self._told(self._parser.finish()) if self._parser else []

    def _told(self, pieces: Iterable[Piece]) -> list[Said]:
        return [said for piece in pieces if (said := self._said(piece))]

    def _said(self, piece: Piece) -> Said | None:
        """None of a piece that only had marks in it."""
        match piece:
            case str():
                return Delta(text) if (text := unmarked(piece)) else None
            case CallDelta():
                return CallDelta(text) if (text := unmarked(piece.arguments)) else None
            case Thought():
                return Thought(text) if (text := unmarked(piece.text)) else None
            case CallStart():
                self._calls += 1
                return CallBegun(f"call_{self._name}_{self._calls}", piece.name)
        return piece


def answer_of(events: Iterable[object]) -> Answer:
    """What a log's events say, others than these passed over."""
    texts: list[str] = []
    calls: list[tuple[CallBegun, list[str]]] = []
    thoughts: list[tuple[int, list[str]]] = []
    before, thinks = 0, False
    for event in events:
        if isinstance(event, Thought):
            if not thinks:
                thoughts.append((len(thoughts) + len(calls) + bool(texts), []))
            thoughts[-1][1].append(event.text)
        elif isinstance(event, Delta):
            before = before if texts else len(calls)
            texts.append(event.text)
        elif isinstance(event, CallBegun):
            calls.append((event, []))
        elif isinstance(event, CallDelta):
            calls[-1][1].append(event.arguments)
        thinks = isinstance(event, Thought)
    called = (ToolCall(begun.id, begun.name, "".join(arguments)) for begun, arguments in calls)
    thought = (Reasoning(place, "".join(pieces)) for place, pieces in thoughts)
    return Answer("".join(texts), tuple(called), before, tuple(thought))


# -- contents ---------------------------------------------------------------------------------------------------------


def answer_content(text: str, calls: Sequence[ToolCall]) -> Content:
    parts = text_content(text) if text or not calls else []
    return [*parts, *({**msgspec.to_builtins(call), "type": "tool_call"} for call in calls)]


def calls_of(content: Content) -> list[ToolCall]:
    return [ToolCall(p["id"], p["name"], p["arguments"]) for p in content if p.get("type") == "tool_call"]


def result_content(call_id: str, text: str) -> Content:
    """Of a message of the role ``tool``."""
    return [{"type": "text", "text": text, "call_id": call_id}]


def call_id_of(content: Content) -> str | None:
    """The call whose result this is."""
    return next((part["call_id"] for part in content if "call_id" in part), None)
