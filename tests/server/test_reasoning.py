"""What a model thinks first: told apart from what it answers, on every wire, and kept token for token."""

import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from chatpager.client import AsyncClient
from tests.chat_models import TOOLS_CHATML, save_tokenizer, thinking
from tests.server.test_tool_calls import ARGUMENTS, ASK, CALL, NESTED, SEARCH, output, respond
from tests.serving_client import eventually, sse_events

THOUGHT = "They ask about Oslo.\n\nI shall look it up."
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("thinking"), thinking(TOOLS_CHATML))


@pytest.fixture(scope="module")
def opening_model(tmp_path_factory):
    """Its template begins the thoughts itself."""
    return save_tokenizer(tmp_path_factory.mktemp("opening"), thinking(TOOLS_CHATML, opens=True))


def thinker(prompt):
    opened = prompt.endswith("<think>\n")
    if prompt.count("Rain"):
        return "</think>\n\nIt rains." if opened else "It rains."
    called = CALL if "<tools>" in prompt else "Yes.\nIndeed"
    return ("" if opened else "<think>\n") + THOUGHT + "\n</think>\n\n" + called


@pytest.fixture(params=[False, True], ids=["thinks", "is opened"])
async def server(serve, chat_model, opening_model, request):
    async with serve(thinker, model=opening_model if request.param else chat_model, blocks=400, length=1500) as running:
        yield running


def thought_in(item):
    assert (item["type"], item["summary"], item["status"]) == ("reasoning", [], "completed")
    [part] = item["content"]
    assert part["type"] == "reasoning_text"
    return part["text"]


async def test_prompts_that_part_behind_thoughts_part_in_the_message_that_differs(server):
    first = await respond(server, "Hello", tools=[])
    asked = {"previous_response_id": first["id"], "tools": []}
    red, blue = [(await respond(server, text, **asked))["id"] for text in ("Red.", "Blue.")]
    told = (await server.get(f"/v1/cache/explain?first={red}&second={blue}")).json["diverged"]
    assert (told["message"], told["role"]) == (2, "user")


async def test_what_was_thought_stays_with_an_answer_that_stands_behind_a_summary(server):
    conversation = await server.conversation()
    first = await respond(server, "Hello", conversation=conversation, tools=[])
    second = await respond(server, ASK, conversation=conversation)
    compacted = await server.post(f"/v1/conversations/{conversation}/compact", {"summary": "We met.", "keep": 1})
    assert compacted.status == 200
    kept = await server.items(conversation)
    assert [item["type"] for item in kept] == ["message", "message", "reasoning", "function_call"]
    assert thought_in(kept[2]) == THOUGHT and kept[3]["call_id"] == second["output"][-1]["call_id"]
    assert (await server.get(f"/v1/conversations/{conversation}/items/{kept[2]['id']}")).json == kept[2]
    await server.post(f"/v1/conversations/{conversation}/rewind", {"to": first["id"]})
    assert (await server.post(f"/v1/conversations/{conversation}/compact", {"summary": "Hm.", "keep": 1})).status == 400
    await respond(server, "Hello again", conversation=conversation, tools=[])
    assert (await server.post(f"/v1/conversations/{conversation}/compact", {"summary": "Hm.", "keep": 1})).status == 200
    for name in (conversation, (await server.post(f"/v1/conversations/{conversation}/fork")).json["id"]):
        kept = await server.items(name)
        assert [item["content"][0]["text"] for item in kept] == ["Hm.", "Hello again", THOUGHT, "Yes.\nIndeed"]


async def test_thoughts_are_taken_out_of_a_conversation(server):
    conversation = await server.conversation()
    await respond(server, "Hello", conversation=conversation, tools=[])
    [_, thought, _] = await server.items(conversation)
    assert (await server.delete(f"/v1/conversations/{conversation}/items/{thought['id']}")).status == 200
    assert [item["content"][0]["text"] for item in await server.items(conversation)] == ["Hello", "Yes.\nIndeed"]


async def test_an_answer_and_what_was_thought_before(server):
    conversation = await server.conversation()
    first = await respond(server, "Hello", conversation=conversation, tools=[])
    reasoning, message = first["output"]
    assert thought_in(reasoning) == THOUGHT and message["content"][0]["text"] == "Yes.\nIndeed"
    assert 20 < first["usage"]["output_tokens_details"]["reasoning_tokens"] < first["usage"]["output_tokens"] - 3
    assert [i["content"][0]["text"] for i in await server.items(conversation)] == ["Hello", THOUGHT, "Yes.\nIndeed"]
    second = await respond(server, "And then?", conversation=conversation, tools=[])
    before = first["usage"]["input_tokens"] + first["usage"]["output_tokens"] - 1
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == before
    assert second["chatpager"]["cache"]["template"] == "kept", "the template would leave the thoughts out"
    assert (await server.get(f"/v1/responses/{first['id']}")).json == first


def without_account(items):
    return [{name: value for name, value in item.items() if name != "chatpager"} for item in items]


async def test_a_conversations_items_are_what_its_responses_gave(server):
    """And of these one has the turn's account."""
    conversation = await server.conversation()
    told = [await respond(server, ASK, conversation=conversation)]
    results = [output(call) for call in told[0]["output"] if call["type"] == "function_call"]
    told.append(await respond(server, results, conversation=conversation))
    told.append(await respond(server, "Hello", conversation=conversation, tools=[]))
    fork = await server.post(f"/v1/conversations/{conversation}/fork")
    for name in (conversation, fork.json["id"]):
        answers = [i for i in await server.items(name) if i.get("role") != "user" and "output" not in i]
        assert without_account(answers) == [item for response in told for item in response["output"]]
        accounts = [i["chatpager"] for i in answers if i.get("chatpager")]
        assert [a["response_id"] for a in accounts] == [response["id"] for response in told]
        for item in answers:
            assert (await server.get(f"/v1/conversations/{name}/items/{item['id']}")).json == item
    export = (await server.get(f"/v1/conversations/{conversation}/export")).json
    assert "reasoning" in [i["type"] for i in export["items"]]
    again = await server.items(await server.conversation(items=export["items"]))
    assert "reasoning" not in [i["type"] for i in again], "nobody else's thoughts stand in a prompt"
    assert [i["type"] for i in again] == [i["type"] for i in export["items"] if i["type"] != "reasoning"]


async def test_the_items_of_an_answer_that_only_thinks(server):
    """While it runs and when it was cut: its account needs a message."""
    conversation = await server.conversation()
    server.gate.hold(after=20)
    async with server.socket() as socket:
        await socket.send(type="response.create", input="Hello", conversation=conversation, max_output_tokens=25)
        turn = await server.live_turn()
        await eventually(lambda: turn.stream.answer.reasoning)
        [_, thought, message] = await server.items(conversation)
        assert (thought["type"], thought["status"], message["status"]) == ("reasoning", "in_progress", "in_progress")
        server.gate.open()
        response = (await socket.rest())[-1]["response"]
    [_, thought, message] = await server.items(conversation)
    assert [thought] == response["output"] and thought["status"] == "incomplete"
    assert (message["content"][0]["text"], message["chatpager"]["state"]) == ("", "incomplete")


async def test_a_client_that_sends_all_back_goes_on_token_for_token(server):
    first = await respond(server, ASK)
    reasoning, call = first["output"]
    assert thought_in(reasoning) == THOUGHT and call["arguments"] == ARGUMENTS
    asked = {"role": "user", "content": ASK}
    second = await respond(server, [asked, reasoning, call, output(call)])
    before = first["usage"]["input_tokens"] + first["usage"]["output_tokens"] - 1
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == before
    [message] = second["output"]
    assert message["content"][0]["text"] == "It rains."
    without = await respond(server, [asked, call, output(call)])
    assert without["usage"]["input_tokens"] == second["usage"]["input_tokens"]


async def test_chat_completions(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        messages = [{"role": "user", "content": ASK}]
        answer = await client.chat.completions.create(model="default", messages=messages, tools=[NESTED])
        message = answer.choices[0].message
        assert message.reasoning_content == THOUGHT and message.tool_calls[0].function.arguments == ARGUMENTS
        assert answer.usage.completion_tokens_details.reasoning_tokens > 20
        thought, arguments, names = "", "", []
        stream = await client.chat.completions.create(model="default", messages=messages, tools=[NESTED], stream=True)
        async for chunk in stream:
            delta = chunk.choices[0].delta
            thought += getattr(delta, "reasoning_content", None) or ""
            assert not delta.content
            for call in delta.tool_calls or []:
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments
        assert (thought, names, arguments) == (THOUGHT, ["search"], ARGUMENTS)
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Rain."}
        again = [*messages, message.model_dump(exclude_none=True), result]
        second = await client.chat.completions.create(model="default", messages=again, tools=[NESTED])
        assert second.choices[0].message.content == "It rains."
        assert second.usage.prompt_tokens_details.cached_tokens == answer.usage.total_tokens - 1


async def test_the_openai_package_streams_it(server):
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
    async with client, client.responses.stream(model="default", input=ASK, tools=[SEARCH]) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "function_call"]
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert len(deltas) > 5 and "".join(deltas) == final.output[0].content[0].text == THOUGHT
    assert final.usage.output_tokens_details.reasoning_tokens > 20


async def test_every_wire_tells_the_same(server):
    body = {"input": "Hello"}
    async with server.events("/v1/responses", body) as stream:
        streamed = [event async for _, event in stream]
    async with server.socket() as socket:
        await socket.send(type="response.create", **body)
        sent = await socket.rest()
    path = f"/v1/responses/{sent[-1]['response']['id']}?stream=true&starting_after=6"
    async with server.http.get(server.url + path) as answer:
        again = [event async for _, event in sse_events(answer.content)]
    assert again == sent[7:]
    for events in (streamed, sent):
        for event in events:
            if "response" not in event:
                EVENT.validate_python(event)
        thought = "".join(e["delta"] for e in events if e["type"] == "response.reasoning_text.delta")
        text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
        assert (thought, text) == (THOUGHT, "Yes.\nIndeed")
        done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
        assert done == events[-1]["response"]["output"] and done[0]["type"] == "reasoning"


async def test_an_answer_that_is_cut_while_it_thinks(server):
    cut = await respond(server, "Hello", max_output_tokens=12)
    [reasoning] = cut["output"]
    assert (cut["status"], reasoning["status"]) == ("incomplete", "incomplete")
    assert THOUGHT.startswith(reasoning["content"][0]["text"]) and cut["usage"]["output_tokens"] == 12
    second = await respond(server, "Go on", previous_response_id=cut["id"], max_output_tokens=3)
    before = cut["usage"]["input_tokens"] + 12 - 1
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == before


async def test_a_stop_string_behind_the_thoughts(server):
    stopped = await respond(server, "Hello", tools=[], stop=["Indeed"])
    reasoning, message = stopped["output"]
    assert thought_in(reasoning) == THOUGHT and message["content"][0]["text"] == "Yes.\n"
    second = await respond(server, "And then?", previous_response_id=stopped["id"], tools=[], max_output_tokens=3)
    before = stopped["usage"]["input_tokens"] + stopped["usage"]["output_tokens"] - 8
    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= before


async def test_from_python(server):
    async with AsyncClient(server.url) as client:
        session = await client.session()
        reply = await session.ask("Hello")
        assert (reply.text, reply.reasoning) == ("Yes.\nIndeed", THOUGHT)


async def test_after_a_crash_nobody_reads_the_thoughts_as_an_answer(serve):
    """What the journal keeps of an answer is what it said."""
    async with serve(thinker, blocks=400, length=1500) as server:
        conversation = await server.conversation()
        server.gate.hold(after=40)
        async with server.socket() as socket:
            await socket.send(type="response.create", input="Hello", conversation=conversation)
            turn = await server.live_turn()
            await eventually(lambda: turn.stream.answer.reasoning)
            assert not turn.stream.text
            journaled = await server.service.store.journaled("default", turn.id)
            assert journaled.token_ids and "Oslo" not in journaled.text
            server.gate.open()
            await socket.rest()


async def test_an_answer_of_a_form_has_no_room_for_thoughts(serve, opening_model):
    """Though the template opens them: what comes is the answer."""
    async with serve(lambda prompt: '{"a": 1}', model=opening_model, blocks=400, length=1500) as server:
        told = await respond(server, "Hello", tools=[], text={"format": {"type": "json_object"}})
        [message] = told["output"]
        assert message["content"][0]["text"] == '{"a": 1}'
