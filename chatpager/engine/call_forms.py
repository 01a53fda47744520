"""The forms in which models write calls, told apart by their chat templates.

Hermes and Qwen put each call in tags (``tool_calls``). Llama 3 answers with nothing but calls: JSON objects with
``name`` and ``parameters``, one after the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Protocol

from chatpager.engine.tool_calls import OPEN, FunctionCall, ToolCallParser, read_call


class CallParser(Protocol):
    """Text in as it comes, pieces of text and whole calls out; the same ones however the text was cut."""

    def push(self, text: str) -> list[str | FunctionCall]: ...

    def finish(self) -> list[str | FunctionCall]: ...


OTHERS_IN_TAGS = ("<function=",)
"""Templates that have these write something else between the tags."""
ASKS_FOR_BARE_CALLS = '{"name": function name, "parameters": '
"""How Llama's templates describe a call to the model."""
_MAY_BE_A_CALL = re.compile(r'\s*(?:\{\s*(?:"(?:n(?:a(?:m(?:e(?:".*)?)?)?)?)?)?)?', re.DOTALL)
HEAD = 64
"""Characters from which an answer that cannot be a call is told."""
_BETWEEN = re.compile(r"[\s;]*")
_json = json.JSONDecoder()


class BareCallParser:
    """Of an answer that begins as a call does, nothing is told before its end, where it is calls or else text."""

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> list[str | FunctionCall]:
        self._held += text
        self._is_text = self._is_text or _MAY_BE_A_CALL.fullmatch(self._held[:HEAD]) is None
        return self._give() if self._is_text else []

    def finish(self) -> list[str | FunctionCall]:
        calls: list[str | FunctionCall] = [*_calls(self._held)]
        given = self._give()
        return calls or given

    def _give(self) -> list[str | FunctionCall]:
        held, self._held = self._held, ""
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


def call_parser(template: str) -> Callable[[], CallParser] | None:
    """What reads the calls of a model with this template; None of a form that is not known here."""
    if OPEN in template and not any(form in template for form in OTHERS_IN_TAGS):
        return ToolCallParser
    return BareCallParser if ASKS_FOR_BARE_CALLS in template else None
