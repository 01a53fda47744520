"""The shapes that the Open Responses specification requires, on the cases of its compliance suite but the image.

The suite itself is a program for another runtime that is in no registry; here stand the names that it asks for.
"""

import pytest

from tests.chat_models import TOOLS_CHATML, save_tokenizer

RESPONSE = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "user", "usage",
    "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier",
    "prompt_cache_key",
}  # fmt: skip
NUMBERS = ("top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "created_at")
PARTS = {"output_text": {"type", "text", "annotations", "logprobs"}, "reasoning_text": {"type", "text"}}
ITEMS = {
    "message": {"type", "id", "status", "role", "content"},
    "function_call": {"type", "id", "call_id", "name", "arguments", "status"},
    "reasoning": {"type", "id", "summary"},
}
PLACED = {"type", "sequence_number", "item_id", "output_index"}
EVENTS = {
    "response.output_item.added": {"type", "sequence_number", "output_index", "item"},
    "response.output_item.done": {"type", "sequence_number", "output_index", "item"},
    "response.content_part.added": {*PLACED, "content_index", "part"},
    "response.content_part.done": {*PLACED, "content_index", "part"},
    "response.output_text.delta": {*PLACED, "content_index", "delta", "logprobs"},
    "response.output_text.done": {*PLACED, "content_index", "text", "logprobs"},
    "response.function_call_arguments.delta": {*PLACED, "delta"},
    "response.function_call_arguments.done": {*PLACED, "arguments"},
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a place",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Oslo"}}\n</tool_call>'


def said(role, text):
    return {"type": "message", "role": role, "content": text}


HELLO = said("user", "Say hello.")
CASES = {
    "a message": {"input": [HELLO]},
    "a system's words": {"input": [said("system", "You are a pirate."), HELLO]},
    "several turns": {"input": [said("user", "I am Ada."), said("assistant", "Hello Ada!"), HELLO]},
    "a tool": {"input": [HELLO], "tools": [WEATHER]},
}


@pytest.fixture
async def server(serve, tmp_path):
    model = save_tokenizer(tmp_path / "tool-model", TOOLS_CHATML)
    async with serve(lambda prompt: CALL if "<tools>" in prompt else "ok", model=model) as running:
        yield running


def check_item(item):
    assert item.keys() >= ITEMS[item["type"]]
    for part in item.get("content", ()):
        assert part.keys() >= PARTS[part["type"]]


def check_response(response):
    assert response.keys() >= RESPONSE
    assert all(type(response[name]) in (int, float) for name in NUMBERS)
    assert isinstance(response["reasoning"], dict) and response["text"]["format"]["type"] == "text"
    for tool in response["tools"]:
        assert tool.keys() >= {"type", "name", "description", "parameters", "strict"}
    for item in response["output"]:
        check_item(item)


@pytest.mark.parametrize("case", CASES)
async def test_a_response(server, case):
    made = (await server.post("/v1/responses", {"model": "tiny", **CASES[case]})).json
    check_response(made)
    assert made["status"] == "completed" and isinstance(made["completed_at"], int)
    assert [item["type"] for item in made["output"]] == ["function_call" if case == "a tool" else "message"]
    usage = made["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert {"cached_tokens"} <= usage["input_tokens_details"].keys()
    assert usage["output_tokens_details"].keys() == {"reasoning_tokens"}


@pytest.mark.parametrize("case", CASES)
async def test_its_events(server, case):
    async with server.events("/v1/responses", {"model": "tiny", **CASES[case]}) as events:
        told = [event async for _, event in events]
    for event in told:
        if "response" in event:
            check_response(event["response"])
        else:
            assert event.keys() >= EVENTS[event["type"]]
        if "item" in event:
            check_item(event["item"])
    kinds = [event["type"] for event in told]
    assert kinds[-1] == "response.completed"
    if case == "a tool":
        assert {kind for kind in kinds if "arguments" in kind} == {kind for kind in EVENTS if "arguments" in kind}


async def test_what_was_asked_is_said(server):
    asked = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "temperature": 0.3, "top_p": 0.9}
    made = (await server.post("/v1/responses", {"input": "Hello", **asked})).json
    assert {name: made[name] for name in asked} == asked
    assert (await server.get("/v1/responses/" + made["id"])).json == made
