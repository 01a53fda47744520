"""The forms in which a request may want its answer, on either wire."""

import json

import pytest

from chatpager.engine.grammar import MAX_CHARS, Grammar, schema_grammar
from chatpager.errors import InvalidRequest
from tests.server.reading import chat, refused, respond

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"name": "thing", "schema": SCHEMA, "strict": True}


def test_json_of_a_schema():
    turn = respond(input="a", text={"format": {"type": "json_schema", **NAMED}, "verbosity": "low"})
    assert turn.params.grammar == schema_grammar(SCHEMA)
    assert turn.parameters["text"] == {"format": {"type": "json_schema", **NAMED}}
    turn = chat(response_format={"type": "json_schema", "json_schema": {**NAMED, "description": "d"}})
    assert turn.params.grammar == schema_grammar(SCHEMA)


def test_any_json_object():
    form = {"type": "json_object"}
    turn = respond(input="a", text={"format": form})
    assert turn.params.grammar == Grammar("json_object") and turn.parameters["text"] == {"format": form}
    assert chat(response_format=form).params.grammar == Grammar("json_object")


def test_our_own_grammars():
    for kind, text in (("regex", "a+"), ("lark", 'start: "a"')):
        for turn in (
            respond(input="a", chatpager={"grammar": {kind: text}}),
            chat(chatpager={"grammar": {kind: text}}),
        ):
            assert turn.params.grammar == Grammar(kind, text) and "text" not in turn.parameters
            assert turn.grammar_field == "chatpager.grammar"


def test_text_is_what_is_said_anyway():
    for turn in (
        respond(input="a"),
        respond(input="a", text={"format": {"type": "text"}}),
        chat(response_format={"type": "text"}),
    ):
        assert turn.params.grammar is None and "text" not in turn.parameters


@pytest.mark.parametrize(
    "format",
    [
        "json", 3, [], {}, {"schema": SCHEMA}, {"type": None}, {"type": "xml"}, {"type": 3},
        {"type": "json_schema"}, {"type": "json_schema", "name": "x"},
        {"type": "json_schema", "name": "x y", "schema": SCHEMA}, {"type": "json_schema", "name": "x", "schema": True},
        {"type": "json_schema", **NAMED, "strict": "yes"}, {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_schema", "name": "x", "schema": {"description": "a" * MAX_CHARS}},
        {"type": "json_schema", "name": "x", "schema": {"const": json.loads("[" * 70 + "]" * 70)}},
    ],
)  # fmt: skip
def test_what_is_no_format_is_refused_by_its_field(format):
    assert refused(respond, input="a", text={"format": format}) == "text.format"
    inner = {k: v for k, v in format.items() if k != "type"} if isinstance(format, dict) else None
    theirs = format
    if isinstance(format, dict):
        theirs = {"json_schema": inner} | ({"type": format["type"]} if "type" in format else {})
    assert refused(chat, response_format=theirs) == "response_format"


@pytest.mark.parametrize("own", [{}, {"regex": "a", "lark": "b"}, {"regex": "a" * (MAX_CHARS + 1)}])
def test_a_grammar_of_ours_is_one_and_not_too_large(own):
    assert refused(respond, input="a", chatpager={"grammar": own}) == "chatpager.grammar"


def test_it_is_one_form_and_the_wires_own():
    form = {"type": "json_object"}
    both = {"chatpager": {"grammar": {"regex": "a"}}}
    assert refused(respond, input="a", text={"format": form}, **both) == "chatpager.grammar"
    assert refused(chat, response_format=form, **both) == "chatpager.grammar"
    assert refused(respond, input="a", chatpager={"grammar": {"regex": 3}}) == "chatpager.grammar.regex"
    assert refused(respond, input="a", response_format=form) == "response_format"
    assert refused(chat, text={"format": form}) == "text"
    assert refused(respond, input="a", text="json") == "text"
    assert refused(respond, input="a", response_format={}) == "response_format"
    with pytest.raises(InvalidRequest, match="response_format: type is missing; one of text, json_object, json_schema"):
        chat(response_format={"json_schema": NAMED})
