"""Tools as a chat template shows them to a model, and the calls that it answers with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
import xxhash

MAX_DEPTH = 64
"""Of objects and lists in each other: templates and guards walk them by recursion."""
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Of a tool: OpenAI's rule."""


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
    """``arguments`` is the text of a JSON object, as it was generated. ``id``: what its result names, if known."""

    name: str
    arguments: str
    id: str = ""

    def shown(self, *, as_text: bool = False) -> dict[str, Any]:
        """As transformers' templates take it, or, ``as_text``, those that write arguments as they are. What a client
        says was called need not be JSON."""
        arguments: Any = self.arguments
        if not as_text:
            with suppress(msgspec.DecodeError, RecursionError):
                arguments = msgspec.json.decode(self.arguments)
            arguments = self.arguments if is_too_deep(arguments) else arguments
        named = {"id": shown_id(self.id)} if self.id else {}
        return {"type": "function", **named, "function": {"name": self.name, "arguments": arguments}}


def shown_id(call_id: str) -> str:
    """A call's id as templates take it: Mistral's insist on nine letters and digits."""
    return xxhash.xxh3_64_hexdigest(call_id.encode(errors="surrogatepass"))[:9]


class Thought(msgspec.Struct, frozen=True, tag="thought"):
    """A piece of what is thought before or between what is said, never empty."""

    text: str


class CallStart(msgspec.Struct, frozen=True):
    """A call began: a tool of this name, whose arguments follow."""

    name: str


class CallDelta(msgspec.Struct, frozen=True, tag="call_delta"):
    """What was added to the arguments of the call that began last, never empty."""

    arguments: str


class CallEnd(msgspec.Struct, frozen=True, tag="call_end"):
    """Nothing more comes of it. Its arguments are the text of a JSON object, unless it was cut or went wrong."""


Piece = str | Thought | CallStart | CallDelta | CallEnd
"""What a parser makes of an answer: text, thoughts, and calls piece by piece. Nothing else stands in a call."""


def told_at_once(call: FunctionCall) -> list[Piece]:
    return [CallStart(call.name), CallDelta(call.arguments), CallEnd()]


def is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for inner in level for child in _children(inner)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def is_object(arguments: str) -> bool:
    """Whether this is the text of a JSON object: what a call that ended well has."""
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def is_value(text: str) -> bool:
    """Whether this is JSON."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


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
