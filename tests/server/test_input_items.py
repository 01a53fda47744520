"""The items of an input: which are taken, and how the others are refused."""

import pytest

from chatpager.errors import InvalidRequest
from chatpager.server.input_items import MAX_ITEMS
from chatpager.sessions.answers import calls_of
from chatpager.store import text_of
from tests.server.reading import chat, message, refused, respond


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
@pytest.mark.parametrize("part", ["text", "input_text", "output_text"])
def test_messages_are_text_or_parts_of_text(role, part):
    parts = [{"type": part, "text": "Hel"}, {"type": part, "text": "lo", "annotations": []}]
    items = [{"role": role, "content": "Hello"}, {"type": "message", "role": role, "content": parts}]
    assert respond(input=items).messages == 2 * [message(role, "Hello")]
    assert chat(messages=items).messages == 2 * [message(role, "Hello")]


USER = {"role": "user", "content": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"type": "tool_call", "id": "c1", "name": "f", "arguments": "{}"}
TEXT = {"type": "text", "text": "a"}


@pytest.mark.parametrize(("said", "parts"), [({}, []), ({"content": None}, []), ({"content": ""}, []), (USER, [TEXT])])
def test_an_assistants_calls_stand_behind_its_text(said, parts):
    [_, answer] = chat(messages=[USER, {**said, "role": "assistant", "tool_calls": [CALL]}]).messages
    assert (answer.role, answer.content) == ("assistant", [*parts, CALLED])


def test_calls_that_are_items_belong_to_the_answer_before_them():
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    for said, parts in (("a", [TEXT]), ("", [])):
        items = [USER, {"role": "assistant", "content": said}, call, {**call, "call_id": "c2"}, USER, call]
        messages = respond(input=items).messages
        assert [m.role for m in messages] == ["user", "assistant", "user", "assistant"]
        assert messages[1].content == [*parts, CALLED, {**CALLED, "id": "c2"}] and messages[3].content == [CALLED]


def test_what_came_of_a_call():
    parts = [{"type": "input_text", "text": "Ra"}, {"type": "text", "text": "in"}]
    output = {"type": "function_call_output", "call_id": "c1", "output": parts}
    turn = respond(input=[output], previous_response_id="resp_1")
    [result] = turn.messages
    assert (result.role, result.content) == ("tool", [{"type": "text", "text": "Rain", "call_id": "c1"}])
    assert turn.results == {"c1": "input[0].call_id"}, "its call is to be in the history"
    told = {"role": "tool", "tool_call_id": "c1", "content": "Rain"}
    asked = chat(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}, told])
    assert asked.messages[2] == result and asked.results == {}


def test_what_came_of_a_call_that_nobody_made():
    output = {"type": "function_call_output", "call_id": "c2", "output": "Rain"}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    message = "no call 'c2' before this result; send it with the answer that called"
    for items, place in (
        ([{**output, "role": "tool"}], 0),
        ([USER, call, output], 2),
        ([output, {**call, "call_id": "c2"}], 0),
    ):
        with pytest.raises(InvalidRequest, match=message) as error:
            respond(input=items)
        assert error.value.param == f"input[{place}].call_id"
    told = {"role": "tool", "tool_call_id": "c2", "content": "Rain"}
    answer = {"role": "assistant", "tool_calls": [CALL]}
    assert refused(chat, messages=[USER, answer, told]) == "messages[2].tool_call_id"
    assert refused(chat, messages=[USER, told]) == "messages[1].tool_call_id"


@pytest.mark.parametrize(
    ("item", "place"),
    [
        ({"type": "function_call_output", "output": "x"}, "[1].call_id"),
        ({"type": "function_call_output", "call_id": "c", "output": 3}, "[1].output"),
        ({"type": "function_call_output", "call_id": "c\0", "output": "x"}, "[1].call_id"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "[1]"),
        ({"type": "function_call", "call_id": "c", "name": "f\0", "arguments": "{}"}, "[1]"),
        ({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}, "[1].type"),
        ({"type": "x" * 1000}, "[1].type"),
        ({"type": None}, "[1].type"),
        ({"type": {"deep": [[[]]]}}, "[1].type"),
        ({"content": "a"}, "[1].role"),
        ({"role": "tool", "content": "a"}, "[1].tool_call_id"),
        ({"role": "tool", "tool_call_id": "c"}, "[1].content"),
        ({"role": ["user"], "content": "a"}, "[1].role"),
        ({"role": "user"}, "[1].content"),
        ({"role": "user", "content": None}, "[1].content"),
        ({"role": "user", "content": {"text": "a"}}, "[1].content"),
        ({"role": "user", "content": "a\0"}, "[1].content"),
        ({"role": "user", "content": ["a"]}, "[1].content[0]"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "[1].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "refusal"}]}, "[1].content[1]"),
        ({"role": "user", "content": [{"type": "text"}]}, "[1].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "[1].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "\0"}]}, "[1].content[0]"),
        ({"role": "assistant", "content": "", "tool_calls": {"id": "x"}}, "[1].tool_calls"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}, "[1].tool_calls[0]"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "x", "type": "custom"}]}, "[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}, "[1].tool_calls[0]"),
        ({"role": "user", "content": "", "tool_calls": [CALL]}, "[1].tool_calls"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "[1].content"),
        ({"role": "assistant", "content": "", "function_call": {"name": "x"}}, "[1].function_call"),
    ],
)
def test_what_is_wrong_with_an_item_is_named_by_its_place(item, place):
    assert refused(respond, input=[USER, item]) == "input" + place
    assert refused(chat, messages=[USER, item]) == "messages" + place


@pytest.mark.parametrize("content", ["a\0b", [{"type": "text", "text": "a\0b"}]])
def test_what_a_model_said_may_be_anything(content):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '"\0"'}}
    said = chat(messages=[USER, {"role": "assistant", "content": content, "tool_calls": [call]}, USER]).messages[1]
    assert (text_of(said.content), calls_of(said.content)[0].arguments) == ("a\0b", '"\0"')
    items = [
        USER,
        {"role": "assistant", "content": content},
        {"type": "function_call", "call_id": "c", **call["function"]},
    ]
    assert respond(input=[*items, USER]).messages[1] == said


def test_the_message_of_a_refused_item_is_short():
    with pytest.raises(InvalidRequest) as error:
        respond(input=[{"type": "x" * 100_000}])
    assert len(error.value.message) < 200


def test_so_many_items_and_no_more():
    assert len(respond(input=MAX_ITEMS * [USER]).messages) == MAX_ITEMS
    assert refused(respond, input=(MAX_ITEMS + 1) * [USER]) == "input"
    assert refused(chat, messages=(MAX_ITEMS + 1) * [USER]) == "messages"


def test_an_empty_text_stands_beside_others():
    said = [{"role": "user", "content": ""}, USER]
    assert respond(input=said).messages == chat(messages=said).messages == [message("user", ""), message("user", "a")]
    result = {"type": "function_call_output", "call_id": "c1", "output": ""}
    assert len(respond(input=[result], previous_response_id="resp_1").messages) == 1


def test_what_was_thought_is_passed_over():
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    said = {"role": "assistant", "content": "b"}
    assert respond(input=[USER, thought, said, thought, call]).messages == respond(input=[USER, said, call]).messages
    assert chat(messages=[USER, {**said, "reasoning_content": "Hm."}]).messages == chat(messages=[USER, said]).messages
