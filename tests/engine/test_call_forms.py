"""Which form of calls a template asks for, and Llama's: an answer that is nothing but calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.call_forms import ASKS_FOR_BARE_CALLS, BareCallParser, call_parser
from chatpager.engine.tool_calls import FunctionCall, ToolCallParser

CALL = '{"name": "f", "parameters": {"a": "}{", "b": 2.50}}'
READ = FunctionCall("f", '{"a": "}{", "b": 2.50}')


def read(text, cuts=()):
    parser, found, start = BareCallParser(), [], 0
    for end in [*sorted(cuts), len(text)]:
        found += parser.push(text[start:end])
        start = end
    found += parser.finish()
    assert parser.finish() == [], "the end is told once"
    if all(isinstance(piece, str) for piece in found):
        return ["".join(found)] if found else []
    return found


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("... <tool_call>\n{{ call }} ...", ToolCallParser),
        (f"Respond in the format {ASKS_FOR_BARE_CALLS}...}}", BareCallParser),
        ("[TOOL_CALLS]", None),
        ("<tool_call>\n<function={{ name }}>", None),
        ("", None),
    ],
)
def test_forms_that_are_known(template, parser):
    assert call_parser(template) is parser


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CALL, [READ]),
        (f"\n{CALL}; {CALL}\n{CALL} ", 3 * [READ]),
        ('{"name": "f"}', [FunctionCall("f", "{}")]),
        ("", []),
    ],
)
def test_calls(text, found):
    assert read(text) == read(text, range(len(text))) == found


@pytest.mark.parametrize(
    "text",
    [
        "a", " \n", "{", '{"name', '{"nam": 1}', f"So: {CALL}", f"{CALL} so", CALL[:-1], " " * 99 + "a", "{}",
        '{"name": "f", "parameters": "x"}', '{"name": "Ada", "parameters": {}, "x": NaN}',
        '{"name": "f", "parameters": ' + "[" * 5000,
    ],
)  # fmt: skip
def test_what_is_more_or_less_than_calls_is_text(text):
    assert read(text) == read(text, range(len(text))) == [text]


@given(
    st.lists(st.sampled_from([CALL, CALL[:9], CALL[9:], "{", "}", '"', " ", ";", "a"]), max_size=6).map("".join),
    st.lists(st.integers(0, 200), max_size=20),
)
def test_where_the_text_is_cut_makes_no_difference(text, cuts):
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text)


def test_text_does_not_wait():
    parser = BareCallParser()
    assert parser.push("{") == [] and parser.push("\n") == [] and parser.push("x") == ["{\nx"]
    assert parser.push(CALL) == [CALL] and parser.finish() == []
