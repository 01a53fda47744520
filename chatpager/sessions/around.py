"""What a prompt has besides its conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from chatpager.engine.tool_calls import Tool

Placement = Literal["head", "tail", "append"]
"""Of a request's instructions: before the conversation, where whoever has other ones shares nothing of it; behind it,
until the answer, which leaves the next turn all before them; or in it for good, as its last message."""


class Around(NamedTuple):
    """Instructions at its ``head`` and at its ``tail``, and the tools that it begins with."""

    head: str | None = None
    tail: str | None = None
    tools: Sequence[Tool] = ()

    def next_turn(self) -> Around:
        """What the next turn has as well, as far as one can tell."""
        return self._replace(tail=None)


NOTHING = Around()


def around_of(parameters: Mapping[str, Any]) -> Around:
    """Of a turn, from what is stored of its request. Appended instructions are a message of the conversation."""
    text, placed = parameters.get("instructions"), parameters.get("instructions_placed", "head")
    return Around(text if placed == "head" else None, text if placed == "tail" else None, tools_of(parameters))


def tools_of(parameters: Mapping[str, Any]) -> list[Tool]:
    """The tools of a request, from what is stored of it."""
    return msgspec.convert(parameters.get("tools", []), list[Tool])
