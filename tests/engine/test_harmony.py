"""Answers in channels: what is thought, what is said and what is called, told apart by special tokens only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.answer_marks import mark
from chatpager.engine.harmony import TOKENS, HarmonyParser
from chatpager.engine.tool_calls import CallDelta, CallStart, FunctionCall, Thought
from tests.engine.call_pieces import together


def marked(text):
    for token in TOKENS:
        text = text.replace(token, mark(token))
    return text


def read(text, cuts=(), names=("f", "g")):
    """Thoughts, texts and calls in their order; what follows each other of one kind is joined."""
    parser, found, start = HarmonyParser(names), [], 0
    for end in [*sorted(cuts), len(text)]:
        found += parser.push(text[start:end])
        start = end
    found += parser.finish()
    assert parser.finish() == [], "the end is told once"
    order = []
    for piece in found:
        if isinstance(piece, Thought) and order and isinstance(order[-1], Thought):
            order[-1] = Thought(order[-1].text + piece.text)
        elif isinstance(piece, Thought) or not order or isinstance(order[-1], Thought):
            order += [piece] if isinstance(piece, Thought) else [[piece]]
        else:
            order[-1].append(piece)
    return [said for part in order for said in ([part] if isinstance(part, Thought) else together(part))]


ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Yes."
CALL = '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'


@pytest.mark.parametrize(
    ("text", "order"),
    [
        (ANALYSIS + FINAL + "<|return|>", [Thought("Hm."), "Yes."]),
        (ANALYSIS + FINAL, [Thought("Hm."), "Yes."]),
        (ANALYSIS + CALL, [Thought("Hm."), FunctionCall("f", '{"a": 1}')]),
        (' to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>', [FunctionCall("f", '{"a": 1}')]),
        (ANALYSIS + CALL.removesuffix('1}<|call|>'), [Thought("Hm."), FunctionCall("f", '{"a": ')]),
        (ANALYSIS + CALL.replace('{"a": 1}', " "), [Thought("Hm."), FunctionCall("f", " {}")]),
        (ANALYSIS + CALL.replace(".f", ".unknown"), [Thought("Hm."), '{"a": 1}']),
        (ANALYSIS + CALL.replace("functions.f", "browser.f"), [Thought("Hm."), '{"a": 1}']),
        (
            f"{ANALYSIS}<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>{CALL}",
            [Thought("Hm."), "I look.", FunctionCall("f", '{"a": 1}')],
        ),
        (ANALYSIS + "<|start|>assistant" + ANALYSIS + FINAL, [Thought("Hm.\n\nHm."), "Yes."]),
        ("<|channel|>commentary<|message|>a<|end|>" + FINAL, ["a\n\nYes."]),
        ("<|channel|>ana", []), ("", []), ("<|start|><|start|>", []),
        ("Yes.", ["Yes."]), (" to", [" to"]), ("Hello<|end|>", ["Hello"]), ("\n\nYes <|call", ["\n\nYes <|call"]),
        ("<|channel|>analysis<|message|>to=functions.f", [Thought("to=functions.f")]),
    ],
)  # fmt: skip
def test_what_is_read(text, order):
    text = marked(text)
    assert read(text) == read(text, range(len(text))) == order


def test_spelled_tokens_are_text():
    assert read(marked(FINAL) + CALL) == ["Yes." + CALL]


def test_without_tools_nothing_is_called():
    assert read(marked(CALL), names=()) == ['{"a": 1}']


def test_all_is_told_as_it_comes():
    parser = HarmonyParser(("f",))
    assert parser.push(marked("<|channel|>analysis")) == [] and parser.is_thinking
    assert parser.push(marked("<|message|>Hm")) == [Thought("Hm")] and parser.is_thinking
    assert parser.push(marked("<|end|><|start|>assistant to=functions.f<|channel|>commentary")) == []
    assert not parser.is_thinking
    assert parser.push(marked("<|message|>")) == [CallStart("f")]
    assert parser.push('{"a') == [CallDelta('{"a')]


parts = st.lists(
    st.sampled_from([*map(mark, TOKENS), "analysis", "final", "commentary", " to=functions.f", "{}", "a", "\n", "é😀"]),
    max_size=14,
).map("".join)


@given(parts, st.lists(st.integers(0, 200), max_size=20))
def test_where_the_text_is_cut_makes_no_difference(text, cuts):
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text)
