"""Calls in tags, told while they come: the same however the text is cut, and what cannot be one stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.call_forms import CLOSE, OPEN, TagParser
from chatpager.engine.tool_calls import CallDelta, CallEnd, CallStart, FunctionCall, Tool, is_object, read_call
from tests.engine import call_pieces as pieces


def read(text, cuts=(), names=None):
    return pieces.read(TagParser(names), text, cuts)


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
        '{"name": "f", "arguments": [1]}', '{"arguments": {"a": }, "name": "f"}',
        "{'name': 'f'}", '{"name": "f"', '{"name": "f", "id": "\\ud800"}', '{"name": "f\\"}', "[" * 9999,
        '{"name": "f", "argum', "<function=f>", OPEN,
    ],
)  # fmt: skip
def test_what_is_no_call_stays_text(body):
    assert read_call(body) is None
    for text in (f"a {OPEN}{body}{CLOSE} b ", f"{OPEN}{body}{CLOSE}", f" {OPEN}{body}"):
        assert read(text) == read(text, range(len(text))) == [text]


@pytest.mark.parametrize("body", ['{"name": "g", "arguments": {}}', '{"arguments": {}, "name": "g"}'])
def test_a_tool_that_was_not_offered_is_not_called(body):
    for text in (f"a {OPEN}{body}{CLOSE}", f"{OPEN}{body}"):
        assert read(text, names={"f"}) == read(text, range(len(text)), {"f"}) == [text]
    assert read(f"{OPEN}{body}{CLOSE}", names={"f", "g"}) == [FunctionCall("g", "{}")]


BEGUN = f'{OPEN}{{"name": "f", "arguments": '


@pytest.mark.parametrize(
    ("rest", "arguments", "behind"),
    [
        ('{"a": }}\n</tool_call>', '{"a": }}', []),
        ('{"a": }', '{"a": }', []),
        ('{"a": "\n</tool_call>"}}</tool_call> b', '{"a": "', ['"}}</tool_call> b']),
        ('{"a": "\\ud800"}}</tool_call>\n\n' + call("g"), '{"a": "\\ud800"}}', [FunctionCall("g", "{}")]),
        ('{"a": ' + "[" * 9999 + "</tool", '{"a": ' + "[" * 9999 + "</tool", []),
        ('{"a": [1, {"b": "</tool_call>', '{"a": [1, {"b": "</tool_call>', []),
    ],
)
def test_a_call_that_was_begun_and_is_cut_or_goes_wrong_shows_what_was_written(rest, arguments, behind):
    found = read(BEGUN + rest)
    assert found == read(BEGUN + rest, range(len(BEGUN + rest))) == [FunctionCall("f", arguments), *behind]
    assert not is_object(arguments)


@pytest.mark.parametrize(
    ("rest", "behind"),
    [
        ("", []), ("}", []), ("}\n</tool_", []), (', "id": 3}</tool_call>', []), ("]", ["]"]), ("} Done.", [" Done."]),
        ("}}", ["}"]), ("} }</tool_call>", [" }</tool_call>"]),
    ],
)  # fmt: skip
def test_what_stands_behind_arguments_that_are_whole(rest, behind):
    text = BEGUN + '{"a": 1}' + rest
    assert read(text) == read(text, range(len(text))) == [FunctionCall("f", '{"a": 1}'), *behind]


def test_arguments_are_told_as_they_come():
    parser = TagParser()
    assert parser.push(f'So:\n{OPEN}{{"name": "f", "arguments": ') == ["So:"]
    assert parser.push("{") == [CallStart("f"), CallDelta("{")]
    assert parser.push('"a": "b') == [CallDelta('"a": "b')]
    assert parser.push('"}') == [CallDelta('"}'), CallEnd()]
    assert parser.push("}") == parser.push(CLOSE) == parser.finish() == []


def test_a_call_behind_one_that_is_none():
    assert read(f"{OPEN}no{CLOSE}\n{call()}") == [f"{OPEN}no{CLOSE}", FunctionCall("f", "{}")]


texts = st.lists(
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


@given(texts, st.lists(st.integers(0, 400), max_size=30))
def test_where_the_text_is_cut_makes_no_difference(text, cuts):
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text)


@given(texts)
def test_nothing_but_calls_and_space_is_left_out(text):
    order = read(text)
    left = "".join(piece for piece in order if isinstance(piece, str))
    if not any(isinstance(piece, FunctionCall) for piece in order):
        assert left == text
    else:
        assert len(left) < len(text)


@given(st.lists(st.sampled_from([("f", "{}"), ("g", NESTED), ("h", '{"a": [{}]}')]), max_size=4), st.integers(0, 300))
def test_a_call_ends_well_where_its_text_was_whole(calls, end):
    text = "\n".join(call(*one) for one in calls)
    found = [piece for piece in read(text[:end]) if isinstance(piece, FunctionCall)]
    for one, (name, arguments) in zip(found, calls, strict=False):
        assert one.name == name and arguments.startswith(one.arguments)
        assert is_object(one.arguments) == (one.arguments == arguments)
        json.loads(one.arguments if is_object(one.arguments) else "{}")


def test_text_does_not_wait_for_what_cannot_become_a_call():
    parser = TagParser()
    assert parser.push("a < b") == ["a < b"]
    assert parser.push(" <tool") == []
    assert parser.push("s>") == [" <tools>"]
    assert parser.push(" ") == [] and parser.push("c") == [" c"]


def test_as_templates_take_them():
    assert Tool("f").shown()["function"]["parameters"] == {"type": "object", "properties": {}}
    assert FunctionCall("f", '{"a": 1.0}').shown()["function"] == {"name": "f", "arguments": {"a": 1.0}}
    assert FunctionCall("f", "not JSON").shown()["function"]["arguments"] == "not JSON"
