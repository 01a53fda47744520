"""Grammars of arguments that are no JSON object: each between tags of its own, as ``xml_calls`` reads them.

A value whose schema says that it is a string stands there as it is, up to the first tag that closes it; any other is
JSON. What a schema says beyond that of a string, other than which ones there are, cannot be followed so, nor what it
says of the whole object other than its properties.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from chatpager.engine.grammar import followed_schema
from chatpager.errors import InvalidRequest

CLOSES = "</parameter>"
PARAMETER_RULES = (
    f"value[lazy]: VALUE {json.dumps(CLOSES)}",
    "VALUE: /(.|\\n)*/",
    'other: "<parameter=" PARAMETER ">\\n" value "\\n"',
    "PARAMETER: /[^<>\\n]{1,64}/",
)
_NAME = re.compile(r"[^<>\n]{1,256}")
_SAYS_NOTHING = {"description", "title", "default", "examples", "deprecated", "$schema", "$comment"}
_OF_OBJECTS = _SAYS_NOTHING | {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
_OF_STRINGS = _SAYS_NOTHING | {"type", "enum", "const"}


def parameters(tool: str, schema: Mapping[str, Any]) -> list[str]:
    """The expression for arguments of a ``schema``, and the rules that it needs. They come in the schema's order; only
    where it names none, others do.

    Raises InvalidRequest: something in it cannot be followed.
    """
    _check(schema, _OF_OBJECTS, tool)
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    if not isinstance(properties, dict):
        raise _unfollowed(tool, "properties")
    if not _are_texts(required):
        raise _unfollowed(tool, "required")
    if missing := [name for name in required if name not in properties]:
        raise _unfollowed(tool, f"required {missing[0]!r} without its schema")
    if not properties:
        return ["" if schema.get("additionalProperties") is False else "other*"]
    named = {f"p_{tool.encode().hex()}_{i}": name for i, name in enumerate(properties)}
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    rules = [f"{rule}: {_parameter(tool, name, properties[name], shared)}" for rule, name in named.items()]
    return [" ".join(rule if name in required else f"{rule}?" for rule, name in named.items()), *rules]


def _parameter(tool: str, name: str, schema: Any, shared: Mapping[str, Any]) -> str:
    if not _NAME.fullmatch(name):
        raise _unfollowed(tool, f"the name {name!r}")
    opens = json.dumps(f"<parameter={name}>\n")
    if not (isinstance(schema, dict) and schema.get("type") == "string"):
        if schema is not True and not isinstance(schema, dict):
            raise _unfollowed(tool, f"the schema of {name!r}")
        whole = {**shared, **(schema if isinstance(schema, dict) else {})}
        return f"{opens} %json {followed_schema(whole)} {json.dumps(chr(10) + CLOSES + chr(10))}"
    _check(schema, _OF_STRINGS, f"{tool}, {name}")
    if "enum" not in schema and "const" not in schema:
        return f'{opens} value "\\n"'
    among = [schema["const"]] if "const" in schema else schema["enum"]
    if not among or not _are_texts(among) or any(CLOSES in value for value in among):
        raise _unfollowed(tool, f"the enum of {name!r}")
    any_of = " | ".join(json.dumps(f"{value}\n{CLOSES}\n") for value in among)
    return f"{opens} ({any_of})"


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check(schema: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := sorted(schema.keys() - known):
        raise _unfollowed(place, unknown[0])


def _unfollowed(place: str, what: str) -> InvalidRequest:
    problem = f"{what} cannot be followed in this model's form of calls"
    return InvalidRequest(f"grammar: {place}: {problem}", param="grammar")
