"""The form that a request wants its answer in: OpenAI's ``response_format`` and ``text.format``, our ``grammar``."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from chatpager.engine.grammar import Grammar, schema_grammar
from chatpager.errors import InvalidRequest, shown
from chatpager.server.input_items import Json

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Of a schema: OpenAI's rule."""
KINDS = ("text", "json_object", "json_schema")


class OwnGrammar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``chatpager.grammar`` of a request: one of the two."""

    regex: str | None = None
    lark: str | None = None


class Schema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schema as both wires have it. It is followed whether ``strict`` or not."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class Form(NamedTuple):
    """``echo`` is the ``text`` of a response object; empty where nothing was asked. ``field`` is where the grammar
    stands."""

    grammar: Grammar | None
    echo: Json
    field: str


def answer_form(value: Any, own: OwnGrammar | None, place: str) -> Form:
    """``value`` is what stands at ``place``, ``own`` under ``chatpager.grammar``.

    Raises:
        InvalidRequest: it has no such form, both are there, or the schema is none that ``Grammar`` takes.
    """
    form = _form(value, place)
    if own is None:
        return form
    if form.grammar is not None:
        raise InvalidRequest(f"send {place} or chatpager.grammar, not both", param="chatpager.grammar")
    given = {kind: text for kind, text in (("regex", own.regex), ("lark", own.lark)) if text is not None}
    if len(given) != 1:
        raise InvalidRequest("chatpager.grammar is either a regex or a lark grammar", param="chatpager.grammar")
    [(kind, text)] = given.items()
    try:
        return Form(Grammar(kind, text), form.echo, "chatpager.grammar")  # type: ignore[arg-type]
    except InvalidRequest as error:
        raise InvalidRequest(f"chatpager.{error.message}", param="chatpager.grammar") from error


def _form(value: Any, place: str) -> Form:
    if value is None:
        return Form(None, {}, place)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place}: must be an object", param=place)
    if "type" not in value:
        raise InvalidRequest(f"{place}: type is missing; one of {', '.join(KINDS)}", param=place)
    kind = value["type"]
    if kind not in KINDS:
        name = shown(kind) if isinstance(kind, str) else "another type"
        raise InvalidRequest(f"{place}: {name} is none of {', '.join(KINDS)}", param=place)
    if kind == "text":
        return Form(None, {}, place)
    if kind == "json_object":
        return Form(Grammar("json_object"), {"format": {"type": kind}}, place)
    schema = _schema(value.get("json_schema") if place == "response_format" else value, place)
    try:
        grammar = schema_grammar(schema.schema)
    except InvalidRequest as error:
        raise InvalidRequest(f"{place}: {error.message}", param=place) from error
    return Form(grammar, {"format": {"type": kind, **msgspec.to_builtins(schema)}}, place)


def _schema(value: Any, place: str) -> Schema:
    try:
        schema = msgspec.convert(value, Schema)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{place}: json_schema: {error}", param=place) from error
    if not NAME.fullmatch(schema.name):
        raise InvalidRequest(f"{place}: its name has 1 to 64 of the characters a-z, A-Z, 0-9, _ and -", param=place)
    return schema
