"""What an answer says: read piece by piece or at once, and kept so that it is found again."""

from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.call_forms import TagParser
from chatpager.engine.tool_calls import CallDelta, CallEnd, Thought
from chatpager.sessions.answers import (
    Answer,
    AnswerReader,
    CallBegun,
    Delta,
    Reasoning,
    ToolCall,
    answer_content,
    answer_of,
    call_id_of,
    calls_of,
    result_content,
)
from chatpager.store import text_of

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
FIRST, SECOND = (ToolCall(f"call_ab_{n}", "f", '{"a": 1}') for n in (1, 2))


def read(*texts, calls=True):
    reader = AnswerReader("resp_ab", TagParser() if calls else None)
    return [*(event for text in texts for event in reader.read(text)), *reader.finish()]


def test_text_and_calls():
    arguments = [CallDelta("{"), CallDelta(FIRST.arguments[1:])]
    calls = [[CallBegun(call.id, "f"), *arguments, CallEnd()] for call in (FIRST, SECOND)]
    assert read("So: ", CALL, CALL) == [Delta("So:"), *calls[0], *calls[1]]
    assert answer_of(read(CALL + " and " + CALL)) == Answer(" and", (FIRST, SECOND), 1)
    assert answer_of(read(CALL)) == answer_of(read(*CALL)) == Answer("", (FIRST,), 0)
    assert FIRST.is_whole and not answer_of(read(CALL[:45])).calls[0].is_whole


def test_thoughts_stand_where_they_began():
    thoughts = [Thought("a"), Thought("b"), Delta("x"), Thought("c"), Delta("y"), CallBegun("1", "f"), Thought("d")]
    call = ToolCall("1", "f", "")
    assert answer_of(thoughts) == Answer("xy", (call,), 0, (Reasoning(0, "ab"), Reasoning(2, "c"), Reasoning(4, "d")))


def test_without_tools_all_is_text():
    assert read("So: ", CALL, "", calls=False) == [Delta("So: "), Delta(CALL)]


@given(st.lists(st.sampled_from([CALL, CALL[:20], CALL[20:], "a", " ", "\n"]), max_size=8))
def test_whoever_reads_it_again_finds_the_same(texts):
    assert answer_of(read(*texts, "")) == answer_of(read("".join(texts)))


def test_contents():
    for text, calls in (("a", ()), ("", ()), ("a", (FIRST, SECOND)), ("", (FIRST,))):
        content = answer_content(text, calls)
        assert (text_of(content), tuple(calls_of(content)), call_id_of(content)) == (text, calls, None)
    assert len(answer_content("", (FIRST,))) == 1 and len(answer_content("", ())) == 1
    assert (
        call_id_of(result_content("call_1", "Rain.")) == "call_1" and text_of(result_content("c", "Rain.")) == "Rain."
    )
