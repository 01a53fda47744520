"""A conversation as Markdown, for people to keep."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatpager.server import wire


def as_markdown(title: str, items: Sequence[wire.AnyItem]) -> str:
    """A heading for whoever speaks; what was said stands as it is, which is Markdown already or reads as such."""
    parts = [f"# {_one_line(title) or 'Conversation'}"]
    for item in items:
        match item:
            case wire.Item() | wire.InputItem():
                parts.append(f"## {item.role.capitalize()}\n\n{''.join(part.text for part in item.content).strip()}")
            case wire.FunctionCallItem():
                parts.append(f"## Assistant calls {_one_line(item.name)}\n\n{_fenced(item.arguments)}")
            case wire.FunctionOutputItem():
                parts.append(f"## Tool\n\n{_fenced(item.output)}")
    return "\n\n".join(parts) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fenced(text: str) -> str:
    """In a fence that is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
