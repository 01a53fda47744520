"""Responses while they run: streamed, read along, cancelled, left, interrupted."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.serving import GREEDY, eventually
from tests.serving_client import sse_events

ENDS = ("response.completed", "response.incomplete", "response.failed")
LONG = {"temperature": 0, "ignore_eos": True, "max_output_tokens": 300}


def whole(events):
    """What a client that reads everything ends up with; the stream's promises are checked on the way."""
    events = [data for kind, data in events if kind == data["type"] or pytest.fail(kind)]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert [e["type"] in ENDS for e in events] == [False] * (len(events) - 1) + [True]
    assert events[0]["type"] == "response.created"
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta"), events[-1]["response"]


async def collect(events):
    return [event async for event in events]


async def test_a_stream_is_the_answer_in_pieces(serve):
    async with serve(lambda prompt: "naïve 你好 😀 fox") as server:
        async with server.events("/v1/responses", {"input": "Hello"}) as events:
            text, response = whole(await collect(events))
        assert text == response["output"][0]["content"][0]["text"] == "naïve 你好 😀 fox"
        assert (await server.get("/v1/responses/" + response["id"])).json == response


async def test_a_stream_and_a_whole_answer_say_the_same(server):
    async with server.events("/v1/responses", {"input": "Hello", **GREEDY}) as events:
        streamed, _ = whole(await collect(events))
    assert streamed == (await server.respond("Hello"))["output"][0]["content"][0]["text"]


async def test_a_refusal_before_the_stream_is_plain_http(server):
    answer = await server.post("/v1/responses", {"input": "a", "stream": True, "conversation": "conv_x"})
    assert answer.refusal == (404, "conversation_not_found", "conversation")


async def test_a_running_response_shows_its_text_so_far(server):
    server.gate.hold(after=3)
    async with server.events("/v1/responses", {"input": "Hello", **GREEDY}) as events:
        turn = await server.live_turn()
        await eventually(lambda: turn.stream.text == turn.text and len(turn.token_ids) == 3)
        running = (await server.get("/v1/responses/" + turn.id)).json
        assert (running["status"], running["usage"]) == ("in_progress", None)
        so_far = running["output"][0]["content"][0]["text"]
        assert running["output"][0]["status"] == "in_progress"
        server.gate.open()
        text, _ = whole(await collect(events))
    assert so_far and text.startswith(so_far) and text != so_far


async def test_before_its_first_token_it_has_no_output(server):
    server.gate.hold()
    async with server.events("/v1/responses", {"input": "Hello", **GREEDY}) as events:
        turn = await server.live_turn()
        assert (await server.get("/v1/responses/" + turn.id)).json["output"] == []
        server.gate.open()
        await collect(events)


@asynccontextmanager
async def held_journal(server, monkeypatch):
    """Inside the block no entry is written; with its end they are."""
    journal, go_on = server.service.store.journal, asyncio.Event()

    async def held(entries):
        if entries:
            await go_on.wait()
        return await journal(entries)

    monkeypatch.setattr(server.service.store, "journal", held)
    try:
        yield
    finally:
        go_on.set()
        server.gate.open()


async def test_nothing_is_shown_that_the_journal_lacks(serve, monkeypatch):
    """A server that is killed now comes back with what the journal holds, and a reader must not have seen more."""
    async with serve(lambda prompt: "on and on and on and on") as server:
        conversation = await server.conversation()
        server.gate.hold(after=3)
        asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", "conversation": conversation}))
        turn = await server.live_turn()
        await server.held()
        shown = await eventually(lambda: turn.stream.text == turn.text and turn.text)
        async with held_journal(server, monkeypatch):
            server.gate.hold(after=2)
            await eventually(lambda: turn.text != shown)
            assert (await server.service.store.journaled("default", turn.id)).text == shown
            running = (await server.get("/v1/responses/" + turn.id)).json
            assert running["output"][0]["content"][0]["text"] == shown
            assert (await server.items(conversation))[1]["content"][0]["text"] == shown
        assert (await asking).json["output"][0]["content"][0]["text"] == "on and on and on and on"


async def test_a_first_token_that_the_journal_lacks_is_no_output(serve, monkeypatch):
    async with serve(lambda prompt: "on and on") as server, held_journal(server, monkeypatch):
        conversation = await server.conversation()
        asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", "conversation": conversation}))
        turn = await server.live_turn()
        await eventually(lambda: turn.text)
        assert (await server.get("/v1/responses/" + turn.id)).json["output"] == []
        assert (await server.items(conversation))[1]["content"][0]["text"] == ""
        asking.cancel()


async def test_any_number_may_read_along_from_any_event(server):
    server.gate.hold(after=3)
    async with server.events("/v1/responses", {"input": "Hello", **GREEDY}) as events:
        turn = await server.live_turn()
        await eventually(lambda: len(turn.token_ids) == 3)
        path = f"{server.url}/v1/responses/{turn.id}?stream=true"
        async with server.http.get(path) as all_along, server.http.get(path + "&starting_after=4") as later:
            server.gate.open()
            sent = await collect(events)
            bodies = [(await reader.text()).replace(": \n\n", "") for reader in (all_along, later)]
    assert [body.count("event: ") for body in bodies] == [len(sent), len(sent) - 5]
    assert bodies[0].endswith(bodies[1])


async def test_the_events_of_a_response_can_be_read_again_after_its_end(server):
    async with server.events("/v1/responses", {"input": "Hello", **GREEDY}) as events:
        sent = await collect(events)
    path = f"{server.url}/v1/responses/{sent[0][1]['response']['id']}?stream=true"
    for after in (-1, 4, len(sent) - 2, len(sent) - 1):
        async with server.http.get(f"{path}&starting_after={after}") as reader:
            assert await collect(sse_events(reader.content)) == (sent[after + 1 :] or sent[-1:])


async def test_the_events_of_an_ended_response_are_gone_in_time_but_not_the_response(serve):
    async with serve(hub={"replay_seconds": 0.0}) as server:
        told = await server.respond("Hello")
        path = f"/v1/responses/{told['id']}?stream=true"
        assert (await server.get(path)).refusal == (410, "response_events_expired", "response_id")
        assert (await server.get("/v1/responses/resp_x?stream=true")).refusal == (404, "response_not_found", None)
        for wrong in ("x", "", "1.5", "-", "9" * 4500):
            answer = await server.get(f"{path}&starting_after={wrong}")
            assert answer.refusal == (400, "invalid_request", "starting_after")


@pytest.mark.parametrize("of", ["responses", "conversations"])
async def test_what_was_deleted_is_not_told_again(server, of):
    conversation = await server.conversation()
    told = await server.respond("Hello", conversation=conversation)
    name = told["id"] if of == "responses" else conversation
    assert (await server.delete(f"/v1/{of}/{name}")).status == 200
    answer = await server.get(f"/v1/responses/{told['id']}?stream=true")
    assert answer.refusal == (404, "response_not_found", None)


async def test_what_is_not_stored_is_not_told_again(server):
    told = await server.respond("Hello", store=False)
    answer = await server.get(f"/v1/responses/{told['id']}?stream=true")
    assert answer.refusal == (404, "response_not_found", None)


# -- cancel, in every phase -------------------------------------------------------------------------------------------


async def test_cancel_while_it_waits_in_the_engine_s_queue(serve):
    async with serve(lambda prompt: "on and on " * 20, blocks=40, length=300) as server:
        server.gate.hold(after=3)
        first = asyncio.create_task(server.post("/v1/responses", {"input": "word " * 40, **LONG}))
        running = await server.live_turn()
        await server.held()
        second = asyncio.create_task(server.post("/v1/responses", {"input": "other " * 60, **LONG}))
        await eventually(lambda: len(server.hub.turns) == 2)
        [queued] = [turn for turn in server.hub.turns.values() if turn is not running]
        server.gate.hold(after=3)
        await server.held()
        assert queued.state == "queued" and len(running.token_ids) > 4
        cancelling = asyncio.create_task(server.post(f"/v1/responses/{queued.id}/cancel"))
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        answer = (await cancelling).json
        assert (answer["status"], answer["output"]) == ("cancelled", [])
        assert (await second).json == answer
        assert (await first).status == 200, "its neighbour goes on"


async def test_cancel_while_the_prompt_is_computed(serve):
    async with serve(step=16) as server:
        server.gate.hold(after=2)
        asking = asyncio.create_task(server.post("/v1/responses", {"input": "word " * 60, **LONG}))
        turn = await server.live_turn()
        await server.held()
        assert turn.state == "prefill"
        cancelling = asyncio.create_task(server.post(f"/v1/responses/{turn.id}/cancel"))
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        answer = (await cancelling).json
        assert (answer["status"], answer["output"]) == ("cancelled", [])
        assert server.gate.passed <= 4
        assert (await asking).json == answer


async def test_cancel_while_it_answers(server):
    server.gate.hold(after=5)
    asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", **LONG}))
    turn = await server.live_turn()
    await eventually(lambda: len(turn.token_ids) == 5)
    cancelling = asyncio.create_task(server.post(f"/v1/responses/{turn.id}/cancel"))
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    answer = (await cancelling).json
    assert answer["status"] == "cancelled" and 5 <= answer["usage"]["output_tokens"] < 300
    assert answer["output"][0]["status"] == "incomplete" and answer["output"][0]["content"][0]["text"]
    assert (await asking).json == (await server.get("/v1/responses/" + turn.id)).json == answer
    after = await server.respond("And then?", previous_response_id=turn.id)
    assert after["usage"]["input_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize("stored", [True, False])
async def test_delete_while_it_runs(server, stored):
    server.gate.hold(after=2)
    asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", **LONG, "store": stored}))
    turn = await server.live_turn()
    await server.held()
    deleting = asyncio.create_task(server.delete("/v1/responses/" + turn.id))
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await deleting).json["deleted"] is True
    assert (await asking).json["status"] == "cancelled"
    assert (await server.get("/v1/responses/" + turn.id)).status == 404


# -- two at once ------------------------------------------------------------------------------------------------------


async def test_two_turns_of_one_conversation_come_one_after_the_other(server):
    conversation = await server.conversation()
    answers = await asyncio.gather(*(server.respond(str(i), conversation=conversation) for i in range(3)))
    assert {answer["status"] for answer in answers} == {"incomplete"}
    items = await server.items(conversation)
    assert [item["role"] for item in items] == 3 * ["user", "assistant"]
    assert [item["id"] for item in items[1::2]] == [answer["output"][0]["id"] for answer in answers]


async def test_a_response_that_runs_cannot_be_followed_yet(server):
    server.gate.hold()
    asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", **GREEDY}))
    turn = await server.live_turn()
    answer = await server.post("/v1/responses", {"input": "a", "previous_response_id": turn.id})
    assert answer.refusal == (409, "session_busy", None)
    server.gate.open()
    assert (await asking).status == 200


async def test_too_many_turns(serve):
    async with serve(hub={"max_turns": 1}) as server:
        server.gate.hold()
        asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", **GREEDY}))
        await server.live_turn()
        answer = await server.post("/v1/responses", {"input": "Hello", **GREEDY})
        assert answer.refusal == (503, "server_is_overloaded", None)
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        server.gate.open()
        assert (await asking).status == 200
