"""What an answer must be: JSON, JSON of a schema, a match of a regular expression, or a sentence of a Lark grammar.

Here it is only described and its size checked, which needs no tokenizer; ``grammar_compiler`` says whether it can be
followed.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import msgspec

from chatpager.engine.tool_calls import is_too_deep
from chatpager.errors import InvalidRequest

GrammarKind = Literal["json_schema", "json_object", "regex", "lark"]
MAX_CHARS = 256 << 10
"""Of a grammar's text: it compiles in some tenths of a second at the most."""

JSON_FORM: dict[str, Any] = {
    "whitespace_flexible": False,  # a model may write spaces for ever
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}
"""llguidance's options: JSON is written as templates write it, and what a schema asks for and cannot be enforced is
refused."""


class Grammar(msgspec.Struct, frozen=True):
    """``text`` is the schema as JSON, the expression or the grammar; of ``json_object`` there is none. An expression
    is matched by the whole answer; its ``\\d`` and ``\\w`` are ASCII, as in schemas. Lark is
    llguidance's dialect; control tokens are never generated, whatever it says, other than ``tokens``: their ids.

    Raises InvalidRequest (``param`` "grammar"): another kind, too much text, or a schema that is no JSON object or has
    objects nested deeper than ``tool_calls.MAX_DEPTH``.
    """

    kind: GrammarKind
    text: str = ""
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(GrammarKind):
            raise _invalid(f"a grammar's kind is one of {', '.join(get_args(GrammarKind))}")
        if not isinstance(self.text, str):
            raise _invalid("a grammar's text is text")
        if len(self.text) > MAX_CHARS:
            raise _invalid(f"it has {len(self.text)} characters, and a grammar has at most {MAX_CHARS}")
        if self.kind == "json_object" and self.text:
            raise _invalid("json_object has no text; a schema is of the kind json_schema")
        if self.kind == "json_schema":
            _check_schema(self.text)


def schema_grammar(schema: dict[str, Any]) -> Grammar:
    """JSON of this schema. Raises what ``Grammar`` does."""
    if is_too_deep(schema):  # before it is written, which walks it by recursion
        raise _invalid("the schema is nested too deeply")
    return Grammar("json_schema", msgspec.json.encode(schema).decode())


def followed_schema(schema: dict[str, Any]) -> str:
    """The schema as llguidance takes it, with ``JSON_FORM`` in place of options of its own."""
    return json.dumps({**schema, "x-guidance": JSON_FORM}, ensure_ascii=False)


def _check_schema(text: str) -> None:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _invalid("the schema is not JSON") from error
    if not isinstance(schema, dict):
        raise _invalid("the schema is not a JSON object")
    if is_too_deep(schema):
        raise _invalid("the schema is nested too deeply")


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(f"grammar: {problem}", param="grammar")
