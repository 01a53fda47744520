"""Tools that a client runs: offered, called, answered, on every wire, token for token."""

import json
import shutil
from itertools import groupby

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from chatpager.client import AsyncClient
from chatpager.engine.call_forms import ASKS_FOR_BARE_CALLS
from chatpager.server.requests import response_request
from chatpager.sessions.heads import owner_of
from tests.chat_models import TOOLS_CHATML, save_tokenizer
from tests.serving import open_serving
from tests.serving_client import sse_events

CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "weather in Oslo", "days": 2.50}}\n</tool_call>'
ARGUMENTS = '{"query": "weather in Oslo", "days": 2.50}'
CHINESE = '{"query": "奥斯陆的天气 😀👩‍👩‍👧", "é\\n": ["\\ud83d\\ude00", {"</tool_call>": -1.5e3}], "days": null}'
SEARCH = {
    "type": "function",
    "name": "search",
    "description": "Looks <|im_end|> up what is said.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}
NESTED = {"type": "function", "function": {k: v for k, v in SEARCH.items() if k != "type"}}
ASK = "What is the weather like in Oslo, today and tomorrow?"
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """The tokenizer of a model whose template shows tools: all that a scripted model needs."""
    return save_tokenizer(tmp_path_factory.mktemp("tool-model"), TOOLS_CHATML)


def agent(prompt):
    """Calls, says what came of it, and says what the tools are where it is asked."""
    if "Which tools" in prompt:
        return "search" if '"name": "search"' in prompt else "none"
    if "<tool_response>\nRain" in prompt:
        return "It rains."
    if "In Chinese" in prompt:
        return CALL.replace(ARGUMENTS, CHINESE)
    return "Let me see.\n" + CALL if "Oslo" in prompt else CALL + "\n" + CALL


@pytest.fixture
async def server(serve):
    async with serve(agent, blocks=400, length=1500) as running:
        yield running


async def respond(server, input, **more):
    answer = await server.post("/v1/responses", {"input": input, "tools": [SEARCH], **more})
    assert answer.status == 200, answer.body
    Response.model_validate({k: v for k, v in answer.json.items() if k != "chatpager"})
    return answer.json


async def complete(server, messages, **more):
    answer = await server.post("/v1/chat/completions", {"messages": messages, "tools": [NESTED], **more})
    assert answer.status == 200, answer.body
    ChatCompletion.model_validate({k: v for k, v in answer.json.items() if k != "chatpager"})
    return answer.json


def output(call, text="Rain."):
    return {"type": "function_call_output", "call_id": call["call_id"], "output": text}


async def test_a_call_its_result_and_an_answer(server):
    conversation = await server.conversation()
    first = await respond(server, ASK, conversation=conversation)
    message, call = first["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (call["type"], call["name"], call["arguments"], call["status"]) == (
        "function_call", "search", ARGUMENTS, "completed",
    )  # fmt: skip
    assert first["status"] == "completed" and first["tools"][0] == {**SEARCH, "strict": None}
    second = await respond(server, [output(call)], conversation=conversation)
    assert second["output"][0]["content"][0]["text"] == "It rains."
    before = first["usage"]["input_tokens"] + first["usage"]["output_tokens"] - 1
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == before
    assert second["chatpager"]["cache"]["template"] == "exact"
    items = await server.items(conversation)
    assert [item["type"] for item in items] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert items[2]["call_id"] == items[3]["call_id"] == call["call_id"] and items[3]["output"] == "Rain."


async def test_the_events_of_a_call(server):
    async with server.events("/v1/responses", {"input": ASK, "tools": [SEARCH]}) as stream:
        events = [event async for _, event in stream]
    for event in events:
        event.get("response", {}).pop("chatpager", None)
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    call = events[-1]["response"]["output"][1]
    told = [event for event in events if event.get("output_index") == 1]
    assert [kind for kind, _ in groupby(event["type"] for event in told)] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert told[0]["item"] == {**call, "arguments": "", "status": "in_progress"} and told[-1]["item"] == call
    assert "".join(e["delta"] for e in told if e["type"].endswith("delta")) == told[-2]["arguments"] == ARGUMENTS
    text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert text == "Let me see."


async def test_a_chat_goes_on_token_for_token(server):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]
    first = await complete(server, messages)
    [choice] = first["choices"]
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "Let me see."
    assert call["type"] == "function" and call["function"] == {"name": "search", "arguments": ARGUMENTS}
    messages += [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "Rain."}]
    second = await complete(server, messages)
    assert second["choices"][0]["message"] == {"role": "assistant", "content": "It rains."}
    assert second["choices"][0]["finish_reason"] == "stop"
    before = first["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == before


async def test_the_chunks_of_two_calls(server):
    body = {"messages": [{"role": "user", "content": "Twice."}], "tools": [NESTED]}
    async with server.events("/v1/chat/completions", body) as stream:
        chunks = [chunk async for _, chunk in stream][:-1]
    for chunk in chunks:
        ChatCompletionChunk.model_validate({k: v for k, v in chunk.items() if k != "chatpager"})
    calls = {}
    for delta in (part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", [])):
        call = calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": ""})
        call["id"] += delta.get("id", "")
        call["name"] += delta["function"].get("name", "")
        call["arguments"] += delta["function"]["arguments"]
    assert [(call["name"], call["arguments"]) for call in calls.values()] == [("search", ARGUMENTS)] * 2
    assert calls[0]["id"] != calls[1]["id"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_openai_package(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        first = await client.responses.create(model="default", input=ASK, tools=[SEARCH])
        [call] = [item for item in first.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"query": "weather in Oslo", "days": 2.5}
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
        second = await client.responses.create(
            model="default", input=[result], tools=[SEARCH], previous_response_id=first.id
        )
        assert second.output_text == "It rains."
        async with client.responses.stream(model="default", input="Twice.", tools=[SEARCH]) as stream:
            final = await stream.get_final_response()
        assert [item.type for item in final.output] == ["function_call"] * 2
        async with client.chat.completions.stream(
            model="default", messages=[{"role": "user", "content": ASK}], tools=[NESTED]
        ) as chat:
            choice = (await chat.get_final_completion()).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.tool_calls[0].function.arguments == ARGUMENTS


async def test_a_call_over_the_websocket(server):
    async with server.socket() as socket:
        await socket.send(type="response.create", input=ASK, tools=[SEARCH])
        first = (await socket.rest())[-1]["response"]
        result = output(first["output"][1])
        await socket.send(type="response.create", input=[result], tools=[SEARCH], previous_response_id=first["id"])
        frames = await socket.rest()
    assert frames[-1]["response"]["output"][0]["content"][0]["text"] == "It rains."


async def test_a_call_that_is_cut_off_before_it_is_one_is_text(server):
    cut = await respond(server, ASK, max_output_tokens=30)
    [message] = cut["output"]
    assert cut["status"] == "incomplete" and message["content"][0]["text"].startswith("Let me see.\n<tool_call>")
    chat = await complete(server, [{"role": "user", "content": ASK}], max_tokens=30)
    assert chat["choices"][0]["finish_reason"] == "length" and "tool_calls" not in chat["choices"][0]["message"]


async def test_a_call_that_is_cut_off_later_is_incomplete(server):
    """It is told as it stands, on every wire; what came of it is asked for by nobody, and the next turn goes on."""
    conversation = await server.conversation()
    cut = await respond(server, ASK, conversation=conversation, max_output_tokens=70)
    message, call = cut["output"]
    assert (cut["status"], message["status"], call["status"]) == ("incomplete", "incomplete", "incomplete")
    assert call["arguments"] and ARGUMENTS.startswith(call["arguments"]) and call["arguments"] != ARGUMENTS
    assert (await server.items(conversation))[-1] == call
    [lease] = (await server.get(f"/v1/conversations/{conversation}/cache")).json["leases"]
    assert lease["reason"] == "", "it waits for no tool"
    chat = await complete(server, [{"role": "user", "content": ASK}], max_tokens=70)
    assert chat["choices"][0]["finish_reason"] == "length"
    [told] = chat["choices"][0]["message"]["tool_calls"]
    assert told["function"]["arguments"] == call["arguments"]
    for again in ({"conversation": conversation}, {"previous_response_id": cut["id"]}):
        second = await respond(server, "And tomorrow in Oslo?", max_output_tokens=4, **again)
        before = cut["usage"]["input_tokens"] + cut["usage"]["output_tokens"] - 1
        assert second["usage"]["input_tokens_details"]["cached_tokens"] >= before
    async with server.events("/v1/responses", {"input": ASK, "tools": [SEARCH], "max_output_tokens": 70}) as stream:
        events = [event async for _, event in stream]
    assert "".join(e["delta"] for e in events if e["type"].endswith("arguments.delta")) == call["arguments"]
    assert events[-1]["response"]["output"][1]["status"] == "incomplete"


async def test_every_wire_tells_a_call_piece_by_piece_and_the_same(server):
    whole = await respond(server, ASK)
    body = {"input": ASK, "tools": [SEARCH]}
    async with server.events("/v1/responses", body) as stream:
        told = {"sse": [event async for _, event in stream]}
    async with server.socket() as socket:
        await socket.send(type="response.create", **body)
        told["socket"] = await socket.rest()
        response_id = told["socket"][-1]["response"]["id"]
    middle = next(e["sequence_number"] for e in told["socket"] if e["type"].endswith("arguments.delta"))
    path = f"/v1/responses/{response_id}?stream=true&starting_after={middle}"
    async with server.http.get(server.url + path) as answer:
        told["again"] = [event async for _, event in sse_events(answer.content)]
    assert told["again"] == told["socket"][middle + 1 :]
    told["again"] = told["socket"][: middle + 1] + told["again"]
    for events in told.values():
        pieces = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
        assert len(pieces) > 5 and "".join(pieces) == ARGUMENTS == whole["output"][1]["arguments"]
        call = events[-1]["response"]["output"][1]
        assert next(e["item"] for e in events if e["type"] == "response.output_item.done") == call


async def test_characters_of_several_tokens_come_whole(server):
    """Of the scripted model's tokens most are single bytes."""
    async with server.events("/v1/responses", {"input": "In Chinese", "tools": [SEARCH]}) as stream:
        events = [event async for _, event in stream]
    pieces = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert "".join(pieces) == CHINESE == (await respond(server, "In Chinese"))["output"][0]["arguments"]
    assert json.loads(CHINESE) and "\ufffd" not in CHINESE and len(pieces) > 20
    body = {"messages": [{"role": "user", "content": "In Chinese"}], "tools": [NESTED]}
    async with server.events("/v1/chat/completions", body) as stream:
        deltas = [chunk["choices"][0]["delta"] async for _, chunk in stream if chunk != "[DONE]"]
    told = [part["function"]["arguments"] for delta in deltas for part in delta.get("tool_calls", [])]
    assert "".join(told) == CHINESE


async def test_a_call_is_told_while_it_is_generated(server):
    server.gate.hold(after=65)
    async with server.events("/v1/responses", {"input": ASK, "tools": [SEARCH]}) as stream:
        turn = await server.live_turn()
        await server.held()
        seen = [event async for _, event in take_until(stream, "response.function_call_arguments.delta")]
        running = (await server.get("/v1/responses/" + turn.id)).json["output"][1]
        assert turn.stream.ended is None and seen[-2]["item"]["name"] == running["name"] == "search"
        assert running["status"] == "in_progress" and running["arguments"].startswith(seen[-1]["delta"])
        assert ARGUMENTS.startswith(running["arguments"]) and running["arguments"] != ARGUMENTS
        server.gate.open()
        *_, last = [event async for _, event in stream]
    assert last["response"]["output"][1] == {**running, "arguments": ARGUMENTS, "status": "completed"}


async def take_until(events, kind):
    async for event in events:
        yield event
        if event[1]["type"] == kind:
            return


async def test_every_choice_calls_by_itself(server):
    choices = (await complete(server, [{"role": "user", "content": ASK}], n=2))["choices"]
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in choices}) == 2
    assert {choice["finish_reason"] for choice in choices} == {"tool_calls"}


async def test_after_a_restart_it_is_known_what_was_computed(serve):
    sizes = {"blocks": 400, "length": 1500}
    async with serve(agent, **sizes) as server:
        conversation = await server.conversation()
        first = await respond(server, ASK, conversation=conversation)
    async with serve(agent, **sizes) as server:
        second = await respond(server, [output(first["output"][1])], conversation=conversation)
        cache = second["chatpager"]["cache"]
        before = first["usage"]["input_tokens"] + first["usage"]["output_tokens"] - 1
        assert (cache["miss_reason"], cache["attainable_tokens"]) == ("lost", before)
        names = f"first={first['id']}&second={second['id']}"
        explained = (await server.get(f"/v1/cache/explain?{names}")).json
        assert explained["second_tokens"] == second["usage"]["input_tokens"]
        assert explained["first_tokens"] == first["usage"]["input_tokens"] == explained["common_tokens"]


async def test_what_a_client_says_was_called_is_taken_as_it_is(server):
    call = {"type": "function_call", "call_id": "c1", "name": "search", "arguments": "{}"}
    items = [
        {"role": "user", "content": ASK},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
    ]
    conversation = await server.conversation(items=items)
    stored = await server.items(conversation)
    assert [item["type"] for item in stored] == ["message", "function_call", "function_call_output"]
    assert {k: v for k, v in stored[1].items() if k not in ("id", "status")} == call
    assert (await respond(server, [], conversation=conversation))["output"][0]["content"][0]["text"] == "It rains."


async def test_what_is_stored_of_a_call(server):
    first = await respond(server, "Twice.")
    second = await respond(server, [output(call) for call in first["output"]], previous_response_id=first["id"])
    assert (await server.get(f"/v1/responses/{first['id']}")).json == first
    asked = (await server.get(f"/v1/responses/{second['id']}/input_items?order=asc")).json["data"]
    assert [item["call_id"] for item in asked] == [call["call_id"] for call in first["output"]]
    assert {item["type"] for item in asked} == {"function_call_output"}


async def test_what_is_not_stored_waits_for_nothing(server):
    first = await respond(server, ASK, store=False)
    assert first["output"][1]["type"] == "function_call"
    assert await server.hub.keeper.largest("default", 10) == []


async def test_an_answer_that_only_calls_tells_of_its_turn_with_its_first_call(server):
    conversation = await server.conversation()
    told = await respond(server, "Twice.", conversation=conversation)
    _, first, second = await server.items(conversation)
    assert first["chatpager"]["response_id"] == told["id"] and "chatpager" not in second
    assert [first["id"], second["id"]] == [item["id"] for item in told["output"]]


async def test_from_python(server):
    async with AsyncClient(server.url) as client:
        session = await client.session()
        first = await session.ask(ASK, tools=[SEARCH])
        assert [call["name"] for call in first.calls] == ["search"] and first.text == "Let me see."
        second = await session.ask([output(call) for call in first.calls], tools=[SEARCH])
        assert (second.text, second.calls) == ("It rains.", [])
        cut = await (await client.session()).ask(ASK, tools=[SEARCH], max_output_tokens=70)
        assert (cut.status, cut.calls) == ("incomplete", []), "nobody is to run half a call"
        assert await session.history() == [("user", ASK), ("assistant", "Let me see."), ("assistant", "It rains.")]


LLAMA = TOOLS_CHATML.replace(
    'Call as <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>', f"Call as {ASKS_FOR_BARE_CALLS}...}}"
).replace("tool_call>", "called>")


async def test_a_model_that_calls_as_llama_does(tmp_path, empty_database):
    model, database = save_tokenizer(tmp_path, LLAMA), shutil.copy(empty_database, tmp_path / "llama.db")
    bare = f'{{"name": "search", "parameters": {ARGUMENTS}}}'
    async with open_serving(
        model,
        f"sqlite+aiosqlite:///{database}",
        lambda prompt: "It rains." if "Rain" in prompt else f"{bare}; {bare}",
        blocks=400,
        length=1500,
    ) as server:
        first = await respond(server, ASK)
        assert [(item["name"], item["arguments"]) for item in first["output"]] == 2 * [("search", ARGUMENTS)]
        results = [output(call) for call in first["output"]]
        second = await respond(server, results, previous_response_id=first["id"])
        assert second["output"][0]["content"][0]["text"] == "It rains."
        before = first["usage"]["input_tokens"] + first["usage"]["output_tokens"] - 1
        assert second["usage"]["input_tokens_details"]["cached_tokens"] == before


async def test_what_came_of_no_call_in_the_history(server):
    first = await respond(server, ASK)
    body = {"input": [output(first["output"][1]), output({"call_id": "c1"})], "tools": [SEARCH]}
    answer = await server.post("/v1/responses", {**body, "previous_response_id": first["id"]})
    assert answer.refusal == (400, "invalid_request", "input[1].call_id")
    assert answer.error["message"].startswith("input[1].call_id: no call 'c1' before this result")
    assert not server.hub.turns


async def test_a_result_that_is_still_being_written_is_computed_as_it_will_be_asked(server):
    first = await respond(server, ASK)
    body = {"input": [output(first["output"][1], "Rain")], "tools": [SEARCH], "previous_response_id": first["id"]}
    settled = await server.hub._beginner.settled(response_request(body, server.service.served, "default"))
    turn = await server.hub.submit(response_request(body, server.service.served, "default"))
    assert len(turn.prompt) > len(settled) > first["usage"]["total_tokens"]
    assert list(turn.prompt[: len(settled)]) == list(settled)


async def test_tools_that_may_not_be_called_are_shown_and_what_is_said_is_text(server):
    free = await respond(server, ASK)
    bound = await respond(server, ASK, tool_choice="none")
    assert bound["output"][0]["content"][0]["text"] == "Let me see.\n" + CALL and len(bound["output"]) == 1
    assert bound["usage"]["input_tokens"] == free["usage"]["input_tokens"] and bound["tool_choice"] == "none"
    assert (await respond(server, "Which tools?"))["output"][0]["content"][0]["text"] == "search"
    assert (await respond(server, "Which tools?", tools=[]))["output"][0]["content"][0]["text"] == "none"


async def test_a_conversation_waits_for_its_tools_as_long_as_they_usually_take(server):
    now = [1000.0]
    server.hub.tool_waits._clock = lambda: now[0]
    leases = []
    for gap in (100, 100):
        conversation = await server.conversation()
        first = await respond(server, ASK, conversation=conversation)
        [lease] = (await server.get(f"/v1/conversations/{conversation}/cache")).json["leases"]
        leases.append((lease["strength"], lease["reason"], round(lease["seconds_left"])))
        now[0] += gap
        await respond(server, [output(first["output"][1])], conversation=conversation)
        assert owner_of("default", conversation) not in server.hub.keeper._pins
    waits = "waits for the tool search"
    assert leases == [("soft", waits, 60), ("soft", waits, 232)]
