"""Of each token of an answer's text the logprobs go with its text, once; of all other tokens there are none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine.answer_marks import mark, unmarked
from chatpager.engine.call_forms import LISTED, TagParser, call_parser
from chatpager.engine.call_parser import FormParser
from chatpager.engine.harmony import HarmonyParser
from chatpager.engine.messages import SampledLogprobs, TokenLogprob
from chatpager.engine.reasoning import THINK, ThinkParser
from chatpager.engine.token_spelling import Spelled
from chatpager.engine.xml_calls import XmlParser
from chatpager.sessions.answers import AnswerReader, Delta, answer_of
from chatpager.sessions.logprobs import PlacedLogprobs
from chatpager.sessions.placing import PlacingReader

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
OTHER = '<tool_call>{"arguments": {}, "name": "f"}</tool_call>'
XML = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
BARE = '{"name": "f", "parameters": {"a": 1}}'
TOKENS = {name: mark(f"<|{name}|>") for name in ("start", "channel", "message", "end", "call")}
ANALYSIS = "{channel}analysis{message}".format(**TOKENS)
FINAL = "{start}assistant{channel}final{message}".format(**TOKENS)
CALLED = '{start}assistant to=functions.f{channel}commentary{message}{{"a": 1}}{call}'.format(**TOKENS)
MARKED_THINK = (mark("<think>"), mark("</think>"))
COMMON = ["a", "bc", " ", "\n", "<", "<t", "é", "{"]
THOUGHTS = ["<think>", "</think>", *MARKED_THINK]
TAGGED = [CALL, CALL[:18], CALL[18:], OTHER, "<tool_call>", "</tool_call>"]
FORMS = {
    "none": (lambda: None, [CALL, *THOUGHTS]),
    "thoughts": (lambda: ThinkParser(THINK), THOUGHTS),
    "opened": (lambda: ThinkParser(THINK, opened=True), THOUGHTS),
    "calls": (TagParser, TAGGED),
    "both": (lambda: ThinkParser(THINK, TagParser()), [*THOUGHTS, *TAGGED]),
    "xml": (XmlParser, [XML, XML[:30], XML[30:]]),
    "bare": (call_parser('{"name": function name, "parameters": '), [BARE, BARE[:15], BARE[15:], "; "]),
    "listed": (lambda: FormParser(LISTED), [mark("[TOOL_CALLS]"), '[{"name": "f", "arguments": {}}]', "]"]),
    "channels": (lambda: HarmonyParser(["f"]), [ANALYSIS, FINAL, CALLED, *TOKENS.values()]),
}


def read(parser, tokens, together=1):
    """The events, and the places of their tokens; ``together``: so many tokens' texts come at once."""
    reader = PlacingReader("resp_1", parser, lambda token_id: Spelled(tokens[token_id], b""))
    events, length = [], 0
    for at in range(0, len(tokens), together):
        for place, token in enumerate(tokens[at : at + together], at):
            reader.place(PlacedLogprobs(length, SampledLogprobs(TokenLogprob(place, -float(place)), [])))
            length += len(token)
        events += reader.read("".join(tokens[at : at + together]))
    return [*events, *reader.finish()]


def places(events):
    return [-int(one.logprob) for event in events if isinstance(event, Delta) for one in event.logprobs]


def tag_spelled(char):
    """A tag that is one token of its own stands in the text as it is spelled."""
    return {MARKED_THINK[0]: "<think>", MARKED_THINK[1]: "</think>"}.get(char, char)


def without_space(text):
    return "".join(text.split())


def test_what_is_swallowed_between_thoughts_and_text_takes_no_place():
    tokens = ["<think>", "abc", "def", "\n", "</think>", "\n\n", "Hello", " world", " !", "!"]
    deltas = [event for event in read(ThinkParser(THINK), tokens) if isinstance(event, Delta)]
    assert [(d.text, [one.token for one in d.logprobs]) for d in deltas] == [
        (text, [text]) for text in ("Hello", " world", " !", "!")
    ]


def test_what_is_swallowed_around_a_call_takes_no_place():
    tokens = ["So", ":", "\n", *CALL, "\n", "Well", "."]
    deltas = [event for event in read(TagParser(), tokens) if isinstance(event, Delta)]
    assert [one.token for d in deltas for one in d.logprobs] == ["So", ":", "\n", "Well", "."]


def test_a_token_with_a_part_of_a_character_goes_with_the_rest_of_it():
    assert places(read(ThinkParser(THINK), ["<think>", "", "x</think>", "", "", "a", "", "b", ""])) == [3, 4, 5, 6, 7]
    assert places(read(None, ["", "a", "", ""])) == [0, 1]


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None)
@given(data=st.data())
def test_the_tokens_of_the_text_are_told_once(form, data):
    make, parts = FORMS[form]
    generated = "".join(data.draw(st.lists(st.sampled_from([*COMMON, *parts]), max_size=12)))
    one_by_one = read(make(), list(generated))
    plain = AnswerReader("resp_1", make())
    text = answer_of(one_by_one).text
    assert answer_of(one_by_one) == answer_of([*plain.read(generated), *plain.finish()])
    found = places(one_by_one)
    joined = unmarked("".join(generated[place] if form == "none" else tag_spelled(generated[place]) for place in found))
    if form == "channels":
        assert without_space(joined) == without_space(text), "an empty line stands between messages"
    else:
        assert joined == text
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(generated) - 1)), max_size=6)))
    cuts = [cut for cut in cuts if cut < len(generated)]
    ends = [*cuts, len(generated)]
    tokens = [generated[a:b] for a, b in zip([0, *cuts], ends, strict=True)]
    whole = read(make(), tokens, data.draw(st.integers(1, 4)))
    assert answer_of(whole) == answer_of(one_by_one)
    owners = [next(i for i, end in enumerate(ends) if place < end) for place in found]
    assert places(whole) == list(dict.fromkeys(owners))
