"""Calls as Qwen3-Coder writes them: ``<function=NAME>`` in the tags of a call, and each argument as
``<parameter=NAME>``, its value on lines of its own, ``</parameter>``.

The arguments are told as the JSON object that they mean. The tool's schema says which values are text; others are JSON
where they are JSON, and text where not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from typing import Any

from chatpager.engine.call_bodies import undecided
from chatpager.engine.call_parser import NAMED, SPACE, CallForm, FormParser, Pattern, Shape
from chatpager.engine.tool_calls import CallDelta, CallEnd, Piece, Tool, is_value

_OPEN = "<tool_call>"
XML = CallForm(_OPEN, Shape(_OPEN, SPACE, "<function=", NAMED, ">"), closes=Shape(SPACE, "</tool_call>"))
_PARAMETER = Shape(SPACE, "<parameter=", Pattern(r"(?P<name>[^<>\n]{1,256})"), ">")
_END = Shape(SPACE, "</function>")
_VALUE_ENDS = "</parameter>"
_OPENS_JSON = ("{", "[", '"')
"""What a value begins with that may have strings in it."""
_PYTHONS = {"True": "true", "False": "false", "None": "null"}
"""What the template makes of such values in earlier calls."""


class XmlBody:
    """``properties``: the schemas of the tool's arguments, as far as they are known."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = properties
        self._separate = ""
        self._in_value = False
        self._is_text = False
        self._begun = False
        """Whether the value's first line end is behind."""
        self.ended = False

    def read(self, held: str) -> tuple[list[Piece], str]:
        told = ""
        while held and not self.ended:
            more, rest = self._value(held) if self._in_value else self._between(held)
            told += more
            if rest == held:
                break
            held = rest
        return [*([CallDelta(told)] if told else []), *([CallEnd()] if self.ended else [])], held

    def finish(self, held: str) -> list[Piece]:
        if self._in_value and self._is_text and held:
            return [CallDelta(_escaped(held)), CallEnd()]
        return [CallEnd()]

    def _between(self, held: str) -> tuple[str, str]:
        if closed := _END.match(held):
            self.ended = True
            return "}", held[closed.end() :]
        if found := _PARAMETER.match(held):
            self._in_value, self._begun = True, False
            schema = self._properties.get(found["name"])
            self._is_text = isinstance(schema, dict) and schema.get("type") == "string"
            told = self._separate + json.dumps(found["name"], ensure_ascii=False) + ": " + '"' * self._is_text
            self._separate = ", "
            return told, held[found.end() :]
        if not (_END.may_become(held) or _PARAMETER.may_become(held)):
            self.ended = True  # the object stays open: such a call is not whole
        return "", held

    def _end_of_value(self, held: str) -> int:
        """Where what ends it begins, or -1: within the strings of a JSON value it is text."""
        end = held.find(_VALUE_ENDS)
        if not self._is_text and held.lstrip()[:1] in _OPENS_JSON:
            while end >= 0 and _in_string(held[:end]):
                end = held.find(_VALUE_ENDS, end + 1)
        return end

    def _value(self, held: str) -> tuple[str, str]:
        if not self._begun and held:
            held, self._begun = held.removeprefix("\n"), True
        end = self._end_of_value(held)
        if end >= 0:
            self._in_value = False
            said = held[:end].removesuffix("\n")
            return _escaped(said) + '"' if self._is_text else _as_json(said), held[end + len(_VALUE_ENDS) :]
        if not self._is_text:
            return "", held
        certain = len(held) - undecided(held, _VALUE_ENDS)
        return _escaped(held[:certain]), held[certain:]


def _in_string(text: str) -> bool:
    """Whether the beginning of a JSON value ends within a string."""
    inside = skip = False
    for character in text:
        if skip:
            skip = False
        elif character == "\\":
            skip = inside
        elif character == '"':
            inside = not inside
    return inside


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(text: str) -> str:
    """The value that ``text`` is, or else the text."""
    value = _PYTHONS.get(text.strip(), text.strip())
    return value if is_value(value) else json.dumps(text, ensure_ascii=False)


class XmlParser(FormParser):
    """``tools``: those that may be called, by name."""

    def __init__(self, tools: Container[str] | None = None) -> None:
        super().__init__(XML, tools)
        self._tools: Mapping[str, Tool] = tools if isinstance(tools, Mapping) else {}

    def _body_of(self, head: re.Match[str]) -> XmlBody:
        tool = self._tools.get(head["name"])
        properties = (tool.parameters or {}).get("properties") if tool else None
        return XmlBody(properties if isinstance(properties, dict) else {})
