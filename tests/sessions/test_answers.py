"""What an answer says: read piece by piece or at once, and kept so that it is found again."""

from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.tool_calls import ToolCallParser
from chatpager.sessions.answers import (
    Answer,
    AnswerReader,
    Delta,
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
    reader = AnswerReader("resp_ab", ToolCallParser() if calls else None)
    return [event for i, text in enumerate(texts) for event in reader.read(text, last=i == len(texts) - 1)]


def test_text_and_calls():
    assert read("So: ", CALL, CALL) == [Delta("So:"), FIRST, SECOND]
    assert answer_of(read(CALL + " and " + CALL)) == Answer(" and", (FIRST, SECOND), 1)
    assert answer_of(read(CALL)) == Answer("", (FIRST,), 0)


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
