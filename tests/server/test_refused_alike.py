"""What is refused on one wire is refused on the others, under the name that the field has there; and what is accepted
and comes to nothing is told on each."""

import pytest

from chatpager.errors import InvalidRequest
from chatpager.server.completion_requests import MAX_PROMPTS, completion_requests
from chatpager.server.message_requests import message_request
from chatpager.server.request_bodies import MAX_BIASED
from tests.server.reading import SERVED, chat, respond

SAID = [{"role": "user", "content": "Hello"}]


def messages(**body):
    return message_request({"messages": SAID, "max_tokens": 8, **body}, SERVED, "t")[0]


def complete(**body):
    return completion_requests({"prompt": "Hello", **body}, SERVED, "t")[0][0]


def answered(**body):
    return respond(**{"input": "Hello", **body})


WIRES = {"responses": answered, "chat": chat, "messages": messages, "completions": complete}


def told(read, **body):
    with pytest.raises(InvalidRequest) as error:
        read(**body)
    return error.value.param, error.value.message


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stop", ["", [""], ["a", ""], ["a"] * 17])
def test_a_stop_that_stops_nothing(wire, stop):
    name = "stop_sequences" if wire == "messages" else "stop"
    param, message = told(WIRES[wire], **{name: stop})
    assert param == name and message.startswith(name)


@pytest.mark.parametrize(
    ("wire", "limit"),
    [
        ("responses", "max_output_tokens"),
        ("chat", "max_tokens"),
        ("chat", "max_completion_tokens"),
        ("messages", "max_tokens"),
        ("completions", "max_tokens"),
    ],
)
def test_an_answer_that_is_to_be_longer_than_the_context(wire, limit):
    assert WIRES[wire](**{limit: SERVED.window}).params.max_tokens == SERVED.window
    param, message = told(WIRES[wire], **{limit: SERVED.window + 1})
    assert param == limit and message == (
        f"{limit}: 4097 tokens are more than the context holds, prompt and answer together; send at most 4096"
    )


EMPTY = {"role": "user", "content": ""}


@pytest.mark.parametrize(
    ("wire", "name", "value"),
    [
        ("responses", "input", ""),
        ("responses", "input", [EMPTY]),
        ("responses", "input", [{"role": "user", "content": []}]),
        ("chat", "messages", [EMPTY]),
        ("chat", "messages", [{"role": "system", "content": ""}, EMPTY]),
        ("messages", "messages", [EMPTY]),
        ("messages", "messages", [{"role": "user", "content": [{"type": "text", "text": ""}]}]),
        ("completions", "prompt", ""),
        ("completions", "prompt", []),
    ],
)
def test_a_request_that_says_nothing(wire, name, value):
    assert told(WIRES[wire], **{name: value})[0] == name


def test_an_empty_prompt_among_others():
    assert told(complete, prompt=["a", ""])[0] == "prompt[1]"
    assert told(complete, prompt=[[1], []])[0] == "prompt[1]"


def test_too_many_prompts_are_counted():
    param, message = told(complete, prompt=["a"] * 129)
    assert (param, MAX_PROMPTS) == ("prompt", 128) and "129 of them" in message and "1 to 128" in message


@pytest.mark.parametrize("wire", WIRES)
def test_a_mark_for_a_time_that_there_is_not_names_those_that_there_are(wire):
    param, message = told(WIRES[wire], cache_control={"type": "ephemeral", "ttl": "2h"})
    assert param == "cache_control.ttl" and message.endswith('one of "5m", "1h"')


@pytest.mark.parametrize("wire", ["responses", "chat", "messages"])
def test_so_does_one_on_a_message_or_inside_it(wire):
    name = "input" if wire == "responses" else "messages"
    mark = {"cache_control": {"type": "ephemeral", "ttl": "2h"}}
    for said, place in (
        ({"content": "a", **mark}, "[0]"),
        ({"content": [{"type": "text", "text": "a", **mark}]}, "[0].content[0]"),
    ):
        param, message = told(WIRES[wire], **{name: [{"role": "user", **said}]})
        assert param == f"{name}{place}.cache_control" and message.endswith('one of "5m", "1h"')


@pytest.mark.parametrize("read", [chat, complete])
def test_options_of_a_stream(read):
    for options in ({}, {"include_usage": True}):
        param, message = told(read, stream_options=options)
        assert param == "stream_options" and message == "stream_options: only with stream: true"
    assert told(read, stream=True, stream_options={"usage": True})[0] == "stream_options"
    for options, count in (({}, 0), ({"include_obfuscation": False}, 0), ({"include_obfuscation": True}, 1)):
        warnings = read(stream=True, stream_options=options).parameters.get("warnings", [])
        assert [warning.partition(":")[0] for warning in warnings] == ["stream_options.include_obfuscation"] * count


def test_other_choices_are_named_too():
    assert '"reasoning.encrypted_content"' in told(answered, include=["bogus"])[1]
    assert told(answered, prompt_cache_options={"ttl": "1h"})[1].endswith('one of "30m", "12h"')
    assert told(answered, truncation="some")[1].endswith('one of "auto", "disabled"')
    assert told(chat, chatpager={"on_disconnect": "stay"})[1].endswith('one of "continue", "cancel"')
    assert told(answered, chatpager={"pin": {"ttl": 1, "scope": "all"}})[1].endswith('one of "session", "prefix"')


CALLED = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}


def test_a_mark_inside_what_a_tool_said_keeps_the_prefix():
    mark = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "2h"}}
    said = [CALLED, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [mark]}]}]
    assert told(messages, messages=said)[0] == "messages[1].content[0].content[0].cache_control"
    mark = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    said = [CALLED, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [mark]}]}]
    assert messages(messages=said).keep_seconds == 3600


@pytest.mark.parametrize("wire", ["responses", "chat", "completions"])
def test_a_bias_for_so_many_tokens_and_no_more(wire):
    most = {str(i): 1 for i in range(MAX_BIASED)}
    assert len(WIRES[wire](logit_bias=most).params.logit_bias) == MAX_BIASED
    param, message = told(WIRES[wire], logit_bias={**most, "x": "none of these is looked at"})
    assert param == "logit_bias" and str(MAX_BIASED) in message


@pytest.mark.parametrize("wire", WIRES)
def test_a_tier_of_service_is_told_to_be_none(wire):
    [warning] = WIRES[wire](service_tier="flex").parameters["warnings"]
    assert warning.startswith("service_tier: ")
    for tier in (None, "auto", "default", "standard_only"):
        assert "warnings" not in WIRES[wire](service_tier=tier).parameters


def test_what_is_not_told_the_model_is_told_the_client():
    [warning] = answered(text={"verbosity": "low"}).parameters["warnings"]
    assert warning.startswith("text.verbosity: ")
    [warning] = messages(output_config={"effort": "low"}).parameters["warnings"]
    assert warning.startswith("output_config.effort: ")
    result = {"type": "tool_result", "tool_use_id": "t", "content": "no such city"}
    for failed, count in ((True, 1), (False, 0), (None, 0)):
        results = 2 * [{**result, "is_error": failed}]
        said = [CALLED, {"role": "user", "content": results}]
        warnings = messages(messages=said).parameters.get("warnings", [])
        assert [warning.partition(":")[0] for warning in warnings] == ["is_error"] * count


async def test_an_address_that_asks_for_what_there_is_not(server):
    conversation, response = await server.conversation(), await server.respond("Hello")
    items, whole = f"/v1/conversations/{conversation}/items", f"/v1/responses/{response['id']}"
    for path in ("/v1/conversations", items, f"{whole}/input_items"):
        for query, param in {"order=sideways": "order", "limt=2": "limt", "limit=2&limit=3": "limit"}.items():
            assert (await server.get(f"{path}?{query}")).refusal == (400, "invalid_request", param)
        assert (await server.get(f"{path}?order=desc")).status == 200
    for address, param in {
        f"{items}?include=foo": "include",
        f"{whole}?include[]=foo": "include[]",
        f"{whole}?stream=maybe": "stream",
        f"{whole}?starting_after=3": "starting_after",
        "/v1/cache/top?foo=1": "foo",
        "/v1/admin/history?foo=1": "foo",
    }.items():
        assert (await server.get(address)).refusal == (400, "invalid_request", param)
    told = "message.output_text.logprobs", "reasoning.encrypted_content"
    for address in (f"{items}?include={told[0]}", f"{whole}?include[]={told[0]}&include[]={told[1]}&stream=false"):
        assert (await server.get(address)).status == 200
