"""Calls in an answer's text: read the same however the text is cut, and anything else stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.tool_calls import CLOSE, OPEN, FunctionCall, Tool, ToolCallParser, read_call


def read(text, cuts=()):
    """(the text, the calls, what came in which order)."""
    parser, found, start = ToolCallParser(), [], 0
    for end in [*sorted(cuts), len(text)]:
        found += parser.push(text[start:end])
        start = end
    found += parser.finish()
    assert parser.finish() == [], "the end is told once"
    order = []
    for piece in found:
        assert piece, "no piece is empty"
        if isinstance(piece, str) and order and isinstance(order[-1], str):
            order[-1] += piece
        else:
            order.append(piece)
    return order


def call(name="f", arguments="{}"):
    return f'{OPEN}\n{{"name": "{name}", "arguments": {arguments}}}\n{CLOSE}'


NESTED = '{"a": "x</tool_call>\\"", "b": [1.50, {"c": "}{\\\\"}], "é": "你好 \\u00e9"}'


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("Hello ", ["Hello "]),
        (" \n", [" \n"]),
        (call(), [FunctionCall("f", "{}")]),
        (call(arguments=NESTED), [FunctionCall("f", NESTED)]),
        ("So:\n\n" + call() + "\n", ["So:", FunctionCall("f", "{}")]),
        (call() + "\n" + call("g") + "\n\n", [FunctionCall("f", "{}"), FunctionCall("g", "{}")]),
        (call() + "\nDone. ", [FunctionCall("f", "{}"), "\nDone."]),
        (f'{OPEN}{{"arguments": {{"a": 1}}, "id": 3, "name": "f"}}{CLOSE}', [FunctionCall("f", '{"a": 1}')]),
        (f'{OPEN}{{"name": "f"}}{CLOSE}', [FunctionCall("f", "{}")]),
        (f'{OPEN}{{"name": "f"}}\n', [FunctionCall("f", "{}")]),
    ],
)
def test_what_is_read(text, order):
    assert read(text) == read(text, range(len(text))) == order


@pytest.mark.parametrize(
    "body",
    [
        "", "f", "[]", "{}", '{"name": ""}', '{"name": "a b"}', '{"name": "f\\n"}',
        '{"name": 3}', '{"arguments": {}}', '{"name": "f", "arguments": "{}"}',
        '{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": {"a": }}', '{"name": "f", "arguments": {}} }',
        "{'name': 'f'}", '{"name": "f"', '{"name": "f", "arguments": {"a": "\\ud800"}}', '{"name": "f\\"}', "[" * 9999,
        "<function=f>", OPEN,
    ],
)  # fmt: skip
def test_what_is_no_call_stays_text(body):
    assert read_call(body) is None
    for text in (f"a {OPEN}{body}{CLOSE} b ", f"{OPEN}{body}{CLOSE}", f" {OPEN}{body}"):
        assert read(text) == [text]


def test_a_call_behind_one_that_is_none():
    assert read(f"{OPEN}no{CLOSE}\n{call()}") == [f"{OPEN}no{CLOSE}", FunctionCall("f", "{}")]


pieces = st.lists(
    st.sampled_from(
        [
            call(),
            call("g", NESTED),
            OPEN,
            CLOSE,
            "<tool",
            "_call>",
            "</",
            "<",
            '"',
            "\\",
            "{",
            "}",
            " ",
            "\n",
            "a",
            "你",
        ]
    ),
    max_size=12,
).map("".join)


@given(pieces, st.lists(st.integers(0, 400), max_size=30))
def test_where_the_text_is_cut_makes_no_difference(text, cuts):
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text)


@given(pieces)
def test_every_call_has_arguments_that_are_json_and_nothing_but_calls_and_space_is_left_out(text):
    order = read(text)
    for found in order:
        if isinstance(found, FunctionCall):
            assert isinstance(json.loads(found.arguments), dict)
    left = "".join(piece for piece in order if isinstance(piece, str))
    if not any(isinstance(piece, FunctionCall) for piece in order):
        assert left == text
    else:
        assert len(left) < len(text)


def test_text_does_not_wait_for_what_cannot_become_a_call():
    parser = ToolCallParser()
    assert parser.push("a < b") == ["a < b"]
    assert parser.push(" <tool") == []
    assert parser.push("s>") == [" <tools>"]
    assert parser.push(" ") == [] and parser.push("c") == [" c"]


def test_as_templates_take_them():
    assert Tool("f").shown()["function"]["parameters"] == {"type": "object", "properties": {}}
    assert FunctionCall("f", '{"a": 1.0}').shown()["function"] == {"name": "f", "arguments": {"a": 1.0}}
    assert FunctionCall("f", "not JSON").shown()["function"]["arguments"] == "not JSON"
