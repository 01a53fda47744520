"""Tools as a chat template shows them to a model, and the calls that it answers with.

Calls are read in the form of Hermes and Qwen: ``<tool_call>``, a JSON object with ``name`` and ``arguments``,
``</tool_call>``. What has not exactly this form stays text, for a call that was told cannot be taken back; so one is
told when all of it is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_DEPTH = 64
"""Of objects and lists in each other: templates and guards walk them by recursion."""
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Of a tool: OpenAI's rule."""
_IN_BODY = re.compile(rf'\\.|"|{CLOSE}', re.DOTALL)


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """As transformers' templates take it."""
        parameters = self.parameters if self.parameters is not None else {"type": "object", "properties": {}}
        function = {"name": self.name, "description": self.description or "", "parameters": parameters}
        return {"type": "function", "function": function}


class FunctionCall(msgspec.Struct, frozen=True):
    """``arguments`` is the text of a JSON object, as it was generated."""

    name: str
    arguments: str

    def shown(self) -> dict[str, Any]:
        """As transformers' templates take it. What a client says was called need not be JSON."""
        try:
            arguments: Any = msgspec.json.decode(self.arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = self.arguments
        arguments = self.arguments if is_too_deep(arguments) else arguments
        return {"type": "function", "function": {"name": self.name, "arguments": arguments}}


def is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for inner in level for child in _children(inner)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_call(body: str, arguments_name: str = "arguments") -> FunctionCall | None:
    """A call's JSON object; None where it is none."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(fields.get("name", b"null"))
        arguments = fields.get(arguments_name, msgspec.Raw(b"{}"))
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return None
    return FunctionCall(name, bytes(arguments).decode())


class ToolCallParser:
    """Text in as it comes, pieces of text and whole calls out; the same ones however the text was cut.

    Space around calls belongs to them, so space is held back until it is known what follows it.
    """

    def __init__(self) -> None:
        self._held = ""
        self._scanned = 0
        """Where in a held call's body to go on looking for its end."""
        self._quoted = False
        """Whether a string of the body is open there."""
        self._called = False

    def push(self, text: str) -> list[str | FunctionCall]:
        self._held += text
        return list(self._read())

    def finish(self) -> list[str | FunctionCall]:
        """What was held back, now that nothing follows. A call that only lacks its last tag is one."""
        held, self._held = self._held, ""
        body = held.lstrip()
        if body.startswith(OPEN) and (call := read_call(body.removeprefix(OPEN))):
            return [call]
        return [held] if body or (held and not self._called) else []

    def _read(self) -> Iterator[str | FunctionCall]:
        while self._held:
            start = self._held.find(OPEN)
            if start < 0:
                yield from self._text(len(self._held) - _undecided(self._held))
                return
            if before := self._held[:start].rstrip():
                yield from self._text(len(before))
                start = self._held.find(OPEN)
            end = self._end_of_body(start + len(OPEN))
            if end is None:
                return
            yield self._called_or_text(start, end)

    def _text(self, count: int) -> Iterator[str]:
        if count:
            yield self._held[:count]
            self._held = self._held[count:]

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

    def _called_or_text(self, start: int, end: int) -> str | FunctionCall:
        whole = self._held[: end + len(CLOSE)]
        call = read_call(whole[start + len(OPEN) : end])
        self._held = self._held[len(whole) :]
        self._scanned, self._quoted = 0, False
        self._called = self._called or call is not None
        return call or whole


def _undecided(text: str) -> int:
    """Length of the end of ``text`` that may belong to a call: the beginning of a tag, and space before it."""
    tag = next((n for n in range(min(len(text), len(OPEN) - 1), 0, -1) if text.endswith(OPEN[:n])), 0)
    return len(text) - len(text[: len(text) - tag].rstrip())
