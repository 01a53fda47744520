"""The forms in which models write calls, told apart by their chat templates.

Hermes and Qwen put each call in tags: ``<tool_call>``, a JSON object with ``name`` and ``arguments``, ``</tool_call>``.
Qwen3-Coder writes no JSON between them (``xml_calls``). Llama 3 answers with nothing but calls: JSON objects with
``name`` and ``parameters``, one after the other. Mistral begins with the token ``[TOOL_CALLS]``: a list of such objects
with ``arguments``, or, in later models, for each call the name, the token ``[ARGS]`` and the arguments. DeepSeek has
tokens around all calls, around each of them, and behind the name; the arguments of its earlier models stand in a fence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Generator
from functools import partial

from chatpager.engine.answer_marks import mark
from chatpager.engine.call_parser import NAMED, SPACE, AnswerParser, CallForm, FormParser, Pattern, Shape, object_head
from chatpager.engine.tool_calls import FunctionCall, Piece, read_call, told_at_once
from chatpager.engine.xml_calls import XmlParser

OPEN, CLOSE = "<tool_call>", "</tool_call>"
OTHERS_IN_TAGS = ("<function=",)
"""Templates that have these write no JSON between the tags."""
ASKS_FOR_BARE_CALLS = '{"name": function name, "parameters": '
"""How Llama's templates describe a call to the model."""
TAGS = CallForm(OPEN, Shape(OPEN, SPACE, *object_head()), closes=Shape(SPACE, CLOSE), ends=CLOSE)
BETWEEN = Pattern(r"[\s;]*")
BARE_HEAD = object_head("parameters")
BARE = CallForm("", Shape(Pattern(r"\s*"), *BARE_HEAD), next=Shape(BETWEEN, *BARE_HEAD))
MISTRALS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
LISTS, ARGS, CALL_ID = map(mark, MISTRALS)
LISTED = CallForm(
    LISTS,
    Shape(LISTS, SPACE, "[", SPACE, *object_head()),
    closes=Shape(SPACE, "]"),
    next=Shape(SPACE, ",", SPACE, *object_head()),
)
NAMED_APART = CallForm(
    LISTS,
    Shape(LISTS, SPACE, NAMED, SPACE, Pattern(rf"(?:{CALL_ID}[ \w]*)?"), ARGS, SPACE, "{"),
    in_object=False,
    ends=LISTS,
)
DEEPSEEKS = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip
CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEP = map(mark, DEEPSEEKS)
FENCE = "```"
FENCES_ARGUMENTS = f"{FENCE}json"
_FENCED_HEAD = (CALL_BEGIN, Pattern("[a-z]*"), SEP, NAMED, SPACE, FENCES_ARGUMENTS, SPACE, "{")
FENCED = CallForm(
    CALLS_BEGIN,
    Shape(CALLS_BEGIN, SPACE, *_FENCED_HEAD),
    closes=Shape(SPACE, FENCE, SPACE, CALL_END, SPACE, CALLS_END),
    next=Shape(SPACE, FENCE, SPACE, CALL_END, SPACE, *_FENCED_HEAD),
    in_object=False,
    ends=f"\n{FENCE}",
)
_SEPARATED_HEAD = (CALL_BEGIN, NAMED, SPACE, SEP, SPACE, "{")
SEPARATED = CallForm(
    CALLS_BEGIN,
    Shape(CALLS_BEGIN, SPACE, *_SEPARATED_HEAD),
    closes=Shape(SPACE, CALL_END, SPACE, CALLS_END),
    next=Shape(SPACE, CALL_END, SPACE, *_SEPARATED_HEAD),
    in_object=False,
    ends=CALL_END,
)
_IN_BODY = re.compile(rf'\\.|"|{CLOSE}', re.DOTALL)
_BEGINS_AS_A_CALL = Shape(Pattern(r"\s*"), "{", Pattern(r"\s*"), '"name"', Pattern(r"(?s:.*)"))
_BETWEEN = re.compile(BETWEEN.regex)
HEAD = 64
"""Characters from which an answer that cannot be a call is told."""
_json = json.JSONDecoder()


class TagParser(FormParser):
    """What stands between the tags and begins otherwise, its arguments first, say, is read when all of it is there."""

    def __init__(self, names: Container[str] | None = None) -> None:
        super().__init__(TAGS, names)
        self._scanned = 0
        """Where in a held call's body to go on looking for its end."""
        self._quoted = False
        """Whether a string of the body is open there."""

    def _otherwise(self, start: int) -> Generator[Piece, None, bool]:
        end = self._end_of_body(start + len(OPEN))
        if end is None:
            return False
        self._scanned, self._quoted = 0, False
        call = self._known(self._held[start + len(OPEN) : end])
        if call:
            self._held, self._called = self._held[end + len(CLOSE) :], True
            yield from told_at_once(call)
        else:
            yield from self._text(end + len(CLOSE))
        return True

    def _end_of_body(self, start: int) -> int | None:
        """Where the closing tag begins that is in no string of the body."""
        at = max(start, self._scanned)
        for found in _IN_BODY.finditer(self._held, at):
            at = found.end()
            if found[0] == '"':
                self._quoted = not self._quoted
            elif found[0] == CLOSE and not self._quoted:
                return found.start()
        self._scanned = max(at, len(self._held) - len(CLOSE) + 1)
        return None

    def _known(self, body: str) -> FunctionCall | None:
        call = read_call(body)
        return call if call and call.name in self._names else None

    def _rest(self, held: str) -> list[Piece]:
        """A call that only lacks its last tag is one."""
        body = held.lstrip()
        if body.startswith(OPEN) and (call := self._known(body.removeprefix(OPEN))):
            return told_at_once(call)
        return super()._rest(held)


class BareParser(FormParser):
    """Calls are looked for at the answer's beginning only. One that has the name first, but something else behind it,
    is read when all of the answer is there."""

    def __init__(self, names: Container[str] | None = None) -> None:
        super().__init__(BARE, names)
        self._is_text = False

    def _in_text(self) -> Generator[Piece, None, bool]:
        if self._is_text or self._called:
            yield from self._text(len(self._held))
            return False
        return (yield from super()._in_text())

    def _otherwise(self, start: int) -> Generator[Piece, None, bool]:
        head = self.form.first.match(self._held)
        self._is_text = head is not None or not _BEGINS_AS_A_CALL.may_become(self._held[:HEAD])
        yield from self._text(len(self._held) if self._is_text else 0)
        return False

    def _rest(self, held: str) -> list[Piece]:
        if self._called or self._is_text:
            return [held] if _BETWEEN.fullmatch(held) is None else []
        calls = _calls(held)
        if calls and all(call.name in self._names for call in calls):
            return [piece for call in calls for piece in told_at_once(call)]
        return [held] if held else []


def _calls(text: str) -> list[FunctionCall]:
    """All that ``text`` consists of; none where there is anything else in it."""
    calls: list[FunctionCall] = []
    at = _end_of_space(text, 0)
    while at < len(text):
        try:
            _, end = _json.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        call = read_call(text[at:end], "parameters")
        if call is None:
            return []
        calls.append(call)
        at = _end_of_space(text, end)
    return calls


def _end_of_space(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


def call_parser(template: str) -> Callable[[Container[str] | None], AnswerParser] | None:
    """What reads the calls of a model with this template, given the tools that were offered by their names (None: any
    name is one); None of a form that is not known here."""
    if OPEN in template:
        return XmlParser if any(form in template for form in OTHERS_IN_TAGS) else TagParser
    if MISTRALS[0] in template:
        return partial(FormParser, NAMED_APART if MISTRALS[1] in template else LISTED)
    if DEEPSEEKS[0] in template:
        return partial(FormParser, FENCED if FENCES_ARGUMENTS in template else SEPARATED)
    return BareParser if ASKS_FOR_BARE_CALLS in template else None
