"""Fields inside a request's fields that have no effect: found, so that a client hears of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from chatpager.server.input_items import Json

MARKED = {"type", "cache_control"}
TEXT = MARKED | {"text", "annotations", "logprobs"}
ITEMS: dict[str, set[str]] = {
    "message": MARKED
    | {"role", "content", "id", "status", "tool_calls", "tool_call_id", "function_call", "chatpager"}
    | {"reasoning_content"},
    "function_call": MARKED | {"id", "status", "call_id", "name", "arguments", "chatpager"},
    "function_call_output": MARKED | {"id", "status", "call_id", "output"},
    "text": TEXT,
    "input_text": TEXT,
    "output_text": TEXT,
    "tool_use": MARKED | {"id", "name", "input"},
    "tool_result": MARKED | {"tool_use_id", "content", "is_error"},
}
"""Type of an item, a message or a part of one -> what is known of it. Of other types nothing is said."""
MEMBERS: dict[str, set[str]] = {
    "text": {"format", "verbosity"},
    "prompt_cache_options": {"mode", "ttl", "prewarm", "comparison_response_id"},
    "conversation": {"id"},
    "output_config": {"format", "effort"},
    "cache_control": {"type", "ttl"},
}
"""Field -> what is known of an object there."""
FORM = {"type", "name", "schema", "strict", "description"}
DEPTH = 2
"""A message, its parts, and theirs (a tool's result)."""
MOST_LOOKED_AT = 8192
"""Of these: four for each message that is taken. While they are looked at nobody else is served."""


def unknown_inside(raw: Json, fields: tuple[str, ...]) -> list[str]:
    """The paths of what is unknown in those of ``fields`` that ``raw`` has, each name of a kind of thing once. A null
    and an empty list say nothing. Of very many things the first are looked at."""
    found: dict[tuple[str, str], str] = {}
    for name in fields:
        value = raw.get(name)
        if isinstance(value, dict) and name in MEMBERS:
            _look(value, MEMBERS[name], name, name, found)
            if name in ("text", "output_config") and isinstance(value.get("format"), dict):
                _look(value["format"], FORM, f"{name}.format", f"{name}.format", found)
        elif isinstance(value, list) and name in ("messages", "input"):
            for thing, place in islice(_things(value, name, DEPTH), MOST_LOOKED_AT):
                kind = thing.get("type", "message")
                known = ITEMS.get(kind) if isinstance(kind, str) else None
                if known is not None:
                    _look(thing, known, place, kind, found)
    return list(found.values())


def _look(thing: Json, known: set[str], place: str, kind: str, found: dict[tuple[str, str], str]) -> None:
    for name in sorted(thing.keys() - known):
        if thing[name] not in (None, []):
            found.setdefault((kind, name), f"{place}.{name}")


def _things(values: list[Any], place: str, depth: int) -> Iterator[tuple[Json, str]]:
    for i, value in enumerate(values):
        if isinstance(value, dict):
            yield value, f"{place}[{i}]"
            content = value.get("content")
            if depth and isinstance(content, list):
                yield from _things(content, f"{place}[{i}].content", depth - 1)
