"""POST /v1/messages: Anthropic's wire on the same core."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatpager.server.input_blocks import block_messages
from tests.chat_models import TOOLS_CHATML, save_tokenizer, thinking
from tests.e2e.fetching import package
from tests.server.test_encode_messages import added_up
from tests.serving import eventually

PATH = "/v1/messages"
FOX = "The quick brown fox jumps over the lazy dog."
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "weather in Oslo", "days": 2.50}}\n</tool_call>'
SEARCH = {"name": "search", "description": "Looks up.", "input_schema": {"type": "object", "properties": {}}}
ASK = "What is the weather like in Oslo, today and tomorrow?"


def user(content):
    return {"role": "user", "content": content}


async def ask(server, messages, **more):
    answer = await server.post(PATH, {"messages": messages, "max_tokens": 8, "temperature": 0, **more})
    assert answer.status == 200, answer.body
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    return answer.json


async def refused(server, body, **more):
    answer = await server.post(PATH, body, **more)
    told = answer.json
    assert list(told) == ["type", "error", "request_id"] and told["type"] == "error"
    assert told["request_id"] == answer.headers["request-id"] and list(told["error"]) == ["type", "message"]
    return answer.status, told["error"]["type"]


def prompt_of(usage):
    return usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]


async def test_an_answer(serve):
    async with serve(lambda prompt: "ok, 你好") as server:
        answer = await ask(server, [user("Hello")], system="Be brief.", max_tokens=100, metadata={"user_id": None})
    ours = answer.pop("chatpager")
    usage = answer.pop("usage")
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message", "role": "assistant", "model": "tiny", "content": [{"type": "text", "text": "ok, 你好"}],
        "stop_reason": "end_turn", "stop_sequence": None,
    }  # fmt: skip
    assert ours["state"] == "completed" and prompt_of(usage) == ours["cache"]["prompt_tokens"]


async def test_the_second_turn_finds_the_first_by_its_words_and_its_answer_s_tokens(server):
    system = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    messages = [user(FOX)]
    first = await ask(server, messages, system=system)
    said = [{"role": "assistant", "content": first["content"]}, user([{"type": "text", "text": "And then?"}])]
    second = await ask(server, [*messages, *said], system=system)
    usage = first["usage"]
    assert second["usage"]["cache_read_input_tokens"] == prompt_of(usage) + usage["output_tokens"] - 1
    assert usage["cache_creation_input_tokens"] == second["usage"]["cache_creation_input_tokens"] == 0


@pytest.mark.parametrize(("ttl", "field", "seconds"), [(None, "5m", 300), ("1h", "1h", 3600)])
async def test_marks_pin_the_prefix(server, ttl, field, seconds):
    mark = {"cache_control": {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}}
    answer = await ask(server, [user(FOX)], system=[{"type": "text", "text": "Be brief.", **mark}])
    usage = answer["usage"]
    assert usage["input_tokens"] == 0 and usage["cache_creation_input_tokens"] == prompt_of(usage) > 0
    assert usage["cache_creation"][f"ephemeral_{field}_input_tokens"] == prompt_of(usage)
    [pin] = server.hub.keeper._pins.values()
    assert pin.until - server.hub.keeper._clock() == pytest.approx(seconds, abs=30)
    plain = await ask(server, [user(FOX)], system="Be brief.")
    assert plain["usage"]["cache_read_input_tokens"] == prompt_of(usage) - 1


async def test_a_mark_of_five_minutes_is_new_with_every_use(server):
    marked = [{"type": "text", "text": FOX, "cache_control": {"type": "ephemeral"}}]
    await ask(server, [user(marked)])
    now = server.hub.keeper._clock() + 200
    server.hub.keeper._clock = lambda: now
    await ask(server, [user(marked)])
    assert max(pin.until for pin in server.hub.keeper._pins.values()) == pytest.approx(now + 300, abs=1)


async def test_a_stream_says_what_the_whole_says(server):
    whole = await ask(server, [user(FOX)])
    body = {"messages": [user(FOX)], "max_tokens": 8, "temperature": 0}
    async with server.events(PATH, body) as stream:
        events = []
        async for kind, data in stream:
            assert kind == data["type"]
            events.append(data)
    assert [e["type"] for e in events][:2] == ["message_start", "ping"]
    start = events[0]["message"]["usage"]
    assert start["cache_read_input_tokens"] == prompt_of(whole["usage"]) - 1 and start["output_tokens"] == 0
    told = added_up(events)
    assert (told["content"], told["stop_reason"]) == (whole["content"], whole["stop_reason"])
    assert told["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 0


async def test_a_stop_sequence_is_named(server):
    [block] = (await ask(server, [user(FOX)], max_tokens=30))["content"]
    stop = block["text"][len(block["text"]) // 2 :][:2]
    cut = await ask(server, [user(FOX)], max_tokens=30, stop_sequences=["never said", stop])
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("stop_sequence", stop)


async def test_an_answer_of_a_form(server):
    schema = {
        "type": "object", "properties": {"kind": {"enum": ["rain", "sun"]}}, "required": ["kind"],
        "additionalProperties": False,
    }  # fmt: skip
    form = {"output_config": {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}}
    answer = await ask(server, [user(FOX)], max_tokens=50, **form)
    [block] = answer["content"]
    assert json.loads(block["text"])["kind"] in ("rain", "sun") and answer["stop_reason"] == "end_turn"
    assert [told.partition(":")[0] for told in answer["chatpager"]["warnings"]] == ["output_config.effort"]


async def test_counting(server):
    body = {"system": "Be brief.", "messages": [user(FOX)]}
    counted = (await server.post(f"{PATH}/count_tokens", body)).json
    assert counted == {"input_tokens": prompt_of((await ask(server, **body))["usage"])}


async def test_an_answer_is_deleted_with_its_words(server):
    told = await ask(server, [user(FOX)])
    conversation = block_messages(None, [user(FOX)])
    assert len(await server.service.store.match_content("default", conversation)) == 1
    deleted = await server.delete(f"{PATH}/{told['id']}")
    assert deleted.json == {"id": told["id"], "object": "message", "deleted": True}
    assert await server.service.store.match_content("default", conversation) == []
    again = await server.delete(f"{PATH}/{told['id']}")
    assert (again.status, again.json["error"]["type"]) == (404, "not_found_error")


async def test_what_is_not_stored_is_found_by_no_later_turn(server):
    told = await ask(server, [user(FOX)], store=False, cache_control={"type": "ephemeral"})
    assert await server.service.store.match_content("default", block_messages(None, [user(FOX)])) == []
    [warning] = told["chatpager"]["warnings"]
    assert "not pinned" in warning


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
MARK = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [user([])]}, "messages[0].content"),
        ({"messages": [user(3)]}, "messages[0].content"),
        ({"messages": [user([IMAGE])]}, "image"),
        ({"messages": [{"role": "system", "content": "a"}]}, "role"),
        ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, "assistant"),
        ({"messages": [user([{"type": "tool_result", "content": "a"}])]}, "tool_use_id"),
        (
            {"messages": [user("a"), user([{"type": "tool_result", "tool_use_id": "t", "content": "a"}])]},
            "messages[1].content[0].tool_use_id: no call 't' before this result",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "n", "input": 1}]}]},
         "input"),
        ({"messages": [user([MARK] * 5)]}, "at most 4"),
        ({"system": [IMAGE]}, "system[0]"),
        ({"system": "a\0"}, "NUL"),
        ({"temperature": 1.5}, "temperature"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control"),
        ({"thinking": {"type": "much"}}, "thinking"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice"),
        ({"tool_choice": {"type": ["auto"]}}, "tool_choice"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
    ],
)  # fmt: skip
async def test_refusals(server, change, says):
    body = {"messages": [user("a")], "max_tokens": 8, **change}
    body = {name: value for name, value in body.items() if value is not None}
    assert await refused(server, body) == (400, "invalid_request_error")
    assert says in (await server.post(PATH, body)).json["error"]["message"]
    assert not server.hub.turns


async def test_errors_have_anthropic_s_shape_and_status(serve):
    body = {"messages": [user("a")], "max_tokens": 8}
    async with serve(api_key="secret", max_message_bytes=1000) as server:
        assert await refused(server, body) == (401, "authentication_error")
        assert await refused(server, body, headers={"x-api-key": "secre"}) == (401, "authentication_error")
        key = {"headers": {"x-api-key": "secret", "anthropic-version": "2023-06-01"}}
        assert (await server.post(PATH, body, **key)).status == 200
        assert await refused(server, {**body, "model": "x"}, **key) == (404, "not_found_error")
        assert await refused(server, b"[", **key) == (400, "invalid_request_error")
        assert await refused(server, b" " * 2000, **key) == (413, "request_too_large")
        assert (await server.get(PATH, **key)).json["error"]["type"] == "invalid_request_error"
        assert (await server.get(f"{PATH}/batches", **key)).json["error"]["type"] in (
            "invalid_request_error", "not_found_error",
        )  # fmt: skip
        both = {"Authorization": "Bearer secret", "x-api-key": "other"}
        assert (await server.post(PATH, body, headers=both)).status == 200
        assert (await server.get("/v1/models", headers={"x-api-key": "secret"})).status == 200
        assert (await server.post(PATH, {**body, "messages": [user("a " * 300)]}, **key)).status == 200
    async with serve(hub={"max_turns": 1}) as server:
        server.gate.hold(after=1)
        asking = asyncio.create_task(server.post(PATH, {"messages": [user(FOX)], "max_tokens": 9, "temperature": 0}))
        await server.live_turn()
        answer = await server.post(PATH, body)
        assert (answer.status, answer.json["error"]["type"]) == (529, "overloaded_error")
        hints = {name: answer.headers[name] for name in ("retry-after", "retry-after-ms", "x-should-retry")}
        assert hints == {"retry-after": "1", "retry-after-ms": "1000", "x-should-retry": "true"}
        server.gate.open()
        assert (await asking).status == 200


async def test_a_request_that_fits_no_cache_is_not_to_be_sent_again(serve):
    async with serve(lambda prompt: "ok", blocks=8) as server:
        answer = await server.post(PATH, {"messages": [user("word " * 60)], "max_tokens": 8})
        assert (answer.status, answer.headers["x-should-retry"]) == (507, "false")


def broken(prompt):
    raise ZeroDivisionError


async def test_a_mistake_of_the_engine_is_an_error_in_both_forms(serve):
    body = {"messages": [user("a")], "max_tokens": 8}
    async with serve(broken) as server:
        assert await refused(server, body) == (500, "api_error")
        async with server.events(PATH, body) as stream:
            kind, last = [event async for event in stream][-1]
    assert kind == last["type"] == "error" and last["error"]["type"] == "api_error"
    assert last["request_id"].startswith("req_")


async def test_it_ends_with_its_reader(server):
    server.gate.hold(after=2)
    asking = asyncio.create_task(server.post(PATH, {"messages": [user(FOX)], "max_tokens": 300, "temperature": 0}))
    turn = await server.live_turn()
    await server.held()
    asking.cancel()
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "cancelled"


# -- tools ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tool-model"), TOOLS_CHATML)


def agent(prompt):
    return "It rains." if "<tool_response>\nRain" in prompt else "Let me see.\n" + CALL


@pytest.fixture
async def tool_server(serve, tool_model):
    async with serve(agent, model=tool_model, blocks=400, length=1500) as running:
        yield running


async def test_a_call_its_result_and_an_answer(tool_server):
    tools, messages = {"tools": [SEARCH], "max_tokens": 200}, [user(ASK)]
    first = await ask(tool_server, messages, **tools)
    text, call = first["content"]
    assert (text, first["stop_reason"]) == ({"type": "text", "text": "Let me see."}, "tool_use")
    assert (call["type"], call["name"]) == ("tool_use", "search")
    assert call["input"] == {"query": "weather in Oslo", "days": 2.5}
    written_again = {**call, "input": dict(reversed(call["input"].items()))}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "Rain."}]}
    more = [{"role": "assistant", "content": [text, written_again]}, user([result])]
    second = await ask(tool_server, [*messages, *more], **tools)
    assert second["content"] == [{"type": "text", "text": "It rains."}] and second["stop_reason"] == "end_turn"
    before = prompt_of(first["usage"]) + first["usage"]["output_tokens"] - 1
    assert second["usage"]["cache_read_input_tokens"] == before
    async with tool_server.events(PATH, {"messages": messages, **tools}) as stream:
        told = added_up([data async for _, data in stream])
    assert [{**block, "id": ""} for block in told["content"]] == [{**block, "id": ""} for block in first["content"]]


async def test_tools_that_may_not_be_called_are_shown(tool_server):
    bound = await ask(tool_server, [user(ASK)], tools=[SEARCH], tool_choice={"type": "none"}, max_tokens=200)
    [block] = bound["content"]
    assert block["text"] == "Let me see.\n" + CALL and bound["stop_reason"] == "end_turn"


async def test_what_a_model_thinks_first(serve, tmp_path):
    model = save_tokenizer(tmp_path, thinking(TOOLS_CHATML))
    enabled = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 200}
    async with serve(
        lambda prompt: "<think>\nThey ask.\n</think>\n\nYes, indeed.", model=model, blocks=400, length=1500
    ) as server:
        first = await ask(server, [user(FOX)], **enabled)
        thought, text = first["content"]
        assert (thought["type"], thought["thinking"].strip()) == ("thinking", "They ask.")
        assert (text["text"], first["stop_reason"]) == ("Yes, indeed.", "end_turn")
        assert "budgets" in first["chatpager"]["warnings"][0]
        talk = [user(FOX), {"role": "assistant", "content": first["content"]}, user("And then?")]
        second = await ask(server, talk, **enabled)
        usage = first["usage"]
        assert second["usage"]["cache_read_input_tokens"] == prompt_of(usage) + usage["output_tokens"] - 1


async def test_the_anthropic_package(tool_server):
    """A14, and a tool's round trip."""
    folder = await asyncio.to_thread(package, "anthropic-2")
    script = Path(__file__).parents[1] / "e2e" / "client_of_anthropic.py"
    env = {**os.environ, "PYTHONPATH": str(folder)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, tool_server.url, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    assert said.decode().startswith("anthropic 2.")


# -- blocks, without a server


def test_what_people_and_tools_say_keeps_its_order():
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "Rain"}
    texts = [{"type": "text", "text": text} for text in ("a", "b", "c")]
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]}
    said = block_messages("Be brief.", [user("0"), called, user([texts[0], result, texts[1], texts[2]])])
    assert [(m.role, "".join(p.get("text", "") for p in m.content)) for m in said] == [
        ("system", "Be brief."), ("user", "0"), ("assistant", ""), ("user", "a"), ("tool", "Rain"), ("user", "b\n\nc"),
    ]  # fmt: skip


def test_thoughts_are_not_what_was_said():
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    text = {"type": "text", "text": "a"}
    one, other = (
        block_messages(None, [{"role": "assistant", "content": content}, user("b")])
        for content in ([thought, text], "a")
    )
    assert one == other
