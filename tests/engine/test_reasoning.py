"""Thoughts at an answer's beginning, told apart from what is answered, however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.call_forms import TagParser
from chatpager.engine.reasoning import MISTRAL_THINK, THINK, ThinkParser, tags_of
from chatpager.engine.tool_calls import FunctionCall, Thought
from tests.engine.call_pieces import together

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def read(text, cuts=(), opened=False, calls=False):
    """(what is thought, the rest in order)."""
    parser, found, start = ThinkParser(THINK, TagParser() if calls else None, opened=opened), [], 0
    for end in [*sorted(cuts), len(text)]:
        found += parser.push(text[start:end])
        start = end
    found += parser.finish()
    assert parser.finish() == [], "the end is told once"
    thoughts = [piece.text for piece in found if isinstance(piece, Thought)]
    assert all(thoughts) and all(isinstance(piece, Thought) for piece in found[: len(thoughts)]), "thoughts come first"
    return "".join(thoughts), together(found[len(thoughts) :])


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", "Hm.", ["Yes."]),
        ("\n<think>Hm. </think>Yes. ", "Hm.", ["Yes. "]),
        ("<think>\n\n</think>\n\nYes.", "", ["Yes."]),
        ("<think>a <b> </thin </think>", "a <b> </thin", []),
        ("<think>a\n\nb", "a\n\nb", []),
        ("<think> a </th", "a </th", []),
        ("<think>\n ", "", []),
        ("Yes: <think>Hm.</think>", "", ["Yes: <think>Hm.</think>"]),
        ("\n <thin", "", ["\n <thin"]),
        ("\n Yes", "", ["\n Yes"]),
        ("", "", []),
    ],
)
def test_what_is_thought(text, thought, said):
    assert read(text) == read(text, range(len(text))) == (thought, said)


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("Hm.\n</think>\n\nYes.", "Hm.", ["Yes."]),
        ("\n<think>\nHm.</think>Yes.", "Hm.", ["Yes."]),
        ("</think>Yes.", "", ["Yes."]),
        ("<thi", "<thi", []),
        ("\n", "", []),
    ],
)
def test_where_the_prompt_opened_the_block(text, thought, said):
    assert read(text, opened=True) == read(text, range(len(text)), opened=True) == (thought, said)


def test_calls_are_read_behind_the_thoughts_and_not_in_them():
    call = FunctionCall("f", '{"a": 1}')
    assert read(f"<think>{CALL}</think>\n{CALL}", calls=True) == (CALL, [call])
    assert read(f"So: {CALL}", calls=True) == ("", ["So:", call])
    assert read("\n <thi", calls=True) == ("", ["\n <thi"])


parts = st.lists(
    st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "\n", " ", "a", "é😀", "<", CALL, CALL[:30]]),
    max_size=10,
)


@given(parts.map("".join), st.lists(st.integers(0, 300), max_size=30), st.booleans(), st.booleans())
def test_where_the_text_is_cut_makes_no_difference(text, cuts, opened, calls):
    assert read(text, [c for c in cuts if c < len(text)], opened, calls) == read(text, (), opened, calls)


def test_when_it_thinks():
    parser = ThinkParser(THINK)
    seen = []
    for piece in ["\n", "<think>", "a", "</", "think>", "\n", "b"]:
        parser.push(piece)
        seen.append(parser.is_thinking)
    assert seen == [False, True, True, True, False, False, False]
    assert ThinkParser(THINK, opened=True).is_thinking


def test_which_templates_think():
    assert tags_of("{% set content = content.split('</think>')[-1] %}") == tags_of("... <think>\n") == THINK
    assert tags_of("[THINK]your thoughts[/THINK]") == MISTRAL_THINK and tags_of("<|im_start|>") is None
