"""Qwen3-Coder's calls: told as the JSON that they mean, the same however the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.tool_calls import CallDelta, CallStart, FunctionCall, Tool, is_object
from chatpager.engine.xml_calls import XmlParser
from tests.engine import call_pieces as pieces

TEXT, NUMBER, ANY = ({"type": "string"}, {"type": "integer"}, {})
TOOLS = {
    "f": Tool("f", parameters={"type": "object", "properties": {"t": TEXT, "n": NUMBER, "a": ANY}}),
    "g": Tool("g", parameters={"properties": None}),
}


def read(text, cuts=(), tools=TOOLS):
    return pieces.read(XmlParser(tools), text, cuts)


def call(name="f", **arguments):
    given = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{given}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        (call(), [FunctionCall("f", "{}")]),
        (call(t="12", n="12"), [FunctionCall("f", '{"t": "12", "n": 12}')]),
        (call(t="a\n\n b \n", a="[1, {}]"), [FunctionCall("f", '{"t": "a\\n\\n b \\n", "a": [1, {}]}')]),
        (call(a="True", n="None", t="True"), [FunctionCall("f", '{"a": true, "n": null, "t": "True"}')]),
        (call(a='say "hi"\\', n="NaN"), [FunctionCall("f", '{"a": "say \\"hi\\"\\\\", "n": "NaN"}')]),
        (call("g", x="é😀", y="1.50"), [FunctionCall("g", '{"x": "é😀", "y": 1.50}')]),
        (call(t=""), [FunctionCall("f", '{"t": ""}')]),
        (
            call(a='{"x\\"": ["</parameter>"]}', n='"</parameter>"'),
            [FunctionCall("f", '{"a": {"x\\"": ["</parameter>"]}, "n": "</parameter>"}')],
        ),
        (call(t="</para <parameter=n> </function>"), [FunctionCall("f", '{"t": "</para <parameter=n> </function>"}')]),
        (f"So:\n{call(n=1)}\n{call('g')} ", ["So:", FunctionCall("f", '{"n": 1}'), FunctionCall("g", "{}")]),
        ("<tool_call><function=f><parameter=t>a</parameter></function>", [FunctionCall("f", '{"t": "a"}')]),
        (call(n=1).removesuffix("\n</tool_call>") + " Done.", [FunctionCall("f", '{"n": 1}'), " Done."]),
        (call("h"), [call("h")]),
        ("<tool_call>\n{}\n</tool_call>", ["<tool_call>\n{}\n</tool_call>"]),
        ("a <tool_call>\n<function=f", ["a <tool_call>\n<function=f"]),
    ],
)
def test_what_is_read(text, order):
    assert read(text) == read(text, range(len(text))) == order
    for found in order:
        if isinstance(found, FunctionCall):
            json.loads(found.arguments)


@pytest.mark.parametrize(
    ("text", "arguments", "behind"),
    [
        ("<tool_call><function=f>", "{", []),
        ("<tool_call><function=f><param", "{", []),
        ("<tool_call><function=f><parameter=t>a\n</par", '{"t": "a\\n</par', []),
        ("<tool_call><function=f><parameter=n>12", '{"n": ', []),
        ("<tool_call><function=f><parameter=n>12</parameter>", '{"n": 12', []),
        ("<tool_call><function=f>no</function></tool_call>", "{", ["no</function></tool_call>"]),
    ],
)
def test_a_call_that_is_cut_or_goes_wrong_is_not_whole(text, arguments, behind):
    assert read(text) == read(text, range(len(text))) == [FunctionCall("f", arguments), *behind]
    assert not is_object(arguments)


def test_text_is_told_as_it_comes():
    parser = XmlParser(TOOLS)
    assert parser.push("<tool_call>\n<function=f>\n") == [CallStart("f"), CallDelta("{")]
    assert parser.push("<parameter=t>\nab") == [CallDelta('"t": "ab')]
    assert parser.push('c"\n') == [CallDelta('c\\"')] and parser.push("d") == [CallDelta("\\nd")]


parts = st.lists(
    st.sampled_from(
        [call(t="a b", n="2"), "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=t>",
         "<parameter=n>", "</parameter>", "\n", " ", "a", '"', "\\", "é😀", "</", "1"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@given(parts, st.lists(st.integers(0, 300), max_size=30))
def test_where_the_text_is_cut_makes_no_difference(text, cuts):
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text)


@given(st.dictionaries(st.sampled_from("tnax"), st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_every_text_comes_through(arguments):
    arguments = {key: value.replace("</parameter>", "") for key, value in arguments.items()}
    [found] = read(call(**arguments), tools={"f": Tool("f", parameters={"properties": dict.fromkeys("tnax", TEXT)})})
    assert json.loads(found.arguments) == arguments
