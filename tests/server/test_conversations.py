"""/v1/conversations: created, listed, renamed, deleted."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
from openai.types.conversations import Conversation

from chatpager.errors import StoreError
from chatpager.server import routes_conversations, wire
from chatpager.server.reading import MUCH
from chatpager.sessions import prompting
from tests.serving import DEADLINE, GREEDY, eventually
from tests.store.making import count

PATH = "/v1/conversations"


async def test_a_conversation(server):
    answer = await server.post(PATH, {"metadata": {"title": "About Ada", "colour": "red"}})
    created = answer.json
    Conversation.model_validate(created)
    assert created["id"].startswith("conv_") and created["object"] == "conversation"
    assert created["metadata"] == {"title": "About Ada", "colour": "red"}
    assert created["chatpager"] == {
        "title": "About Ada", "updated_at": created["created_at"], "forked_from": None, "active_response_id": None,
    }  # fmt: skip
    assert (await server.get(f"{PATH}/{created['id']}")).json == created


@pytest.mark.parametrize("body", [None, b"", {}, {"metadata": None}, {"metadata": {}, "items": None}])
async def test_an_empty_conversation(server, body):
    answer = await server.post(PATH, body)
    assert (answer.status, answer.json["metadata"]) == (200, {})


async def test_a_conversation_without_a_title_is_called_by_its_first_words(server):
    conversation = await server.conversation()
    await server.respond("  The quick\nbrown fox " + "x" * 100, conversation=conversation)
    title = (await server.get(f"{PATH}/{conversation}")).json["metadata"]["title"]
    assert title.startswith("The quick brown fox xxx") and len(title) == 80


async def test_conversations_are_listed_by_their_last_activity(server):
    ids = [await server.conversation(metadata={"n": str(n)}) for n in range(5)]
    await server.respond("Hello", conversation=ids[1])
    page = (await server.get(f"{PATH}?limit=3")).json
    assert page["object"] == "list" and page["has_more"] is True
    found = [row["id"] for row in page["data"]]
    assert found[0] == ids[1] == page["first_id"] and page["last_id"] == found[2]
    rest = (await server.get(f"{PATH}?limit=3&after={found[2]}")).json
    assert rest["has_more"] is False
    assert sorted(found + [row["id"] for row in rest["data"]]) == sorted(ids)
    empty = (await server.get(f"{PATH}?after={rest['last_id']}")).json
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "²", "٣", "9" * 4500])
async def test_the_length_of_a_page(server, limit):
    conversation = await server.conversation()
    for path in (PATH, f"{PATH}/{conversation}/items"):
        assert (await server.get(path, params={"limit": limit})).refusal == (400, "invalid_request", "limit")
        assert (await server.get(path, params={"limit": "100"})).status == 200


async def test_update_changes_what_is_given(server):
    path = f"{PATH}/{await server.conversation(metadata={'title': 'One', 'a': 'b'})}"
    assert (await server.post(path, {"metadata": {"c": "d"}})).json["metadata"] == {"title": "One", "c": "d"}
    assert (await server.post(path, {"metadata": {"title": "Two"}})).json["metadata"] == {"title": "Two"}
    await server.post(path, {"metadata": {"c": "d"}})
    assert (await server.post(path, {})).json["metadata"] == {"title": "Two", "c": "d"}
    assert (await server.post(path, {"metadata": {}})).json["metadata"] == {"title": "Two"}
    assert (await server.post(path, {"metadata": {"title": ""}})).json["metadata"] == {}
    adding = [{"metadata": {n: "here"}, "expected_metadata": {}} for n in "ab"]
    told = await asyncio.gather(*(server.post(path, body) for body in adding))
    assert sorted(answer.status for answer in told) == [200, 409], "the other has to read it again"
    (refused,) = (answer for answer in told if answer.status == 409)
    assert refused.refusal == (409, "conversation_changed", "expected_metadata")
    metadata = {"title": "Three", **(await server.get(path)).json["metadata"]}
    await server.post(path, {"metadata": metadata})
    told = await server.post(path, {"metadata": {}, "expected_metadata": metadata})
    assert told.json["metadata"] == {"title": "Three"}


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"metadata": []}, (400, "invalid_request", "metadata")),
        ({"metadata": {"a": 1}}, (400, "invalid_request", "metadata")),
        ({"metadata": {"title": "x" * 201}}, (400, "invalid_request", "metadata.title")),
        ({"metadata": {"title": "x\0"}}, (400, "invalid_request", "metadata")),
        ({"title": "New"}, (400, "invalid_request", "title")),
        ({"metadata": {}, "foo": 1}, (400, "invalid_request", "foo")),
        ({"metadata": {}, "expected_metadata": []}, (400, "invalid_request", "expected_metadata")),
        (b"nonsense", (400, "invalid_json", None)),
    ],
)
async def test_refused_metadata(server, body, refusal):
    assert (await server.post(PATH, body)).refusal == refusal
    assert (await server.post(f"{PATH}/{await server.conversation()}", body)).refusal == refusal


@pytest.mark.parametrize(
    "items", [3, "a", [3], [{"role": "robot", "content": "a"}], [{"role": "user", "content": "\0"}]]
)
async def test_refused_items_leave_no_conversation_behind(server, items):
    answer = await server.post(PATH, {"items": items})
    assert answer.status == 400 and answer.error["param"].startswith("items")
    assert (await server.get(PATH)).json["data"] == []


async def test_a_conversation_that_is_not_there(server):
    missing = (404, "conversation_not_found", None)
    for path in (f"{PATH}/conv_x", f"{PATH}/%00", f"{PATH}/{'x' * 2000}"):
        assert (await server.get(path)).refusal == missing
        assert (await server.post(path, {"metadata": {}})).refusal == missing
        assert (await server.delete(path)).refusal == missing
        assert (await server.get(path + "/items")).refusal == missing
        assert (await server.get(path + "/items/msg_1")).refusal == missing
        assert (await server.post(path + "/items", {"items": [{"role": "user", "content": "a"}]})).refusal == missing
    assert (await server.get(f"{PATH}?after=conv_x")).refusal == missing


async def test_delete(server):
    conversation = await server.conversation()
    told = await server.respond("Hello", conversation=conversation)
    lately = await server.delete(f"{PATH}/{conversation}", params={"idle_ms": "100000"})
    assert lately.refusal == (409, "conversation_changed", "idle_ms")
    assert (await server.delete(f"{PATH}/{conversation}", params={"idle_ms": "-1"})).refusal[2] == "idle_ms"
    assert (await server.get("/v1/responses/" + told["id"])).json == told
    answer = await server.delete(f"{PATH}/{conversation}")
    assert answer.json == {"id": conversation, "object": "conversation.deleted", "deleted": True}
    assert (await server.get(f"{PATH}/{conversation}")).status == 404
    assert (await server.get("/v1/responses/" + told["id"])).status == 404


async def test_delete_ends_the_turn_that_runs(server):
    conversation = await server.conversation()
    server.gate.hold(after=2)
    body = {"input": "Hello", "conversation": conversation, **GREEDY, "max_output_tokens": 300}
    asking = asyncio.create_task(server.post("/v1/responses", body))
    turn = await server.live_turn()
    row = (await server.get(f"{PATH}/{conversation}")).json
    assert row["chatpager"]["active_response_id"] == turn.id
    await server.held()
    assert (await server.delete(f"{PATH}/{conversation}", params={"idle_ms": "100000"})).status == 409
    assert server.hub.turns.live(turn.request.tenant, turn.id) is turn
    deleting = asyncio.create_task(server.delete(f"{PATH}/{conversation}"))
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await deleting).status == 200
    assert (await asking).json["status"] == "cancelled"
    assert (await server.get(PATH)).json["data"] == []
    assert (await server.get("/v1/responses/" + turn.id)).status == 404


@asynccontextmanager
async def held_beginning(server, monkeypatch):
    """Turns are stored, but the hub hears of it only with the end of the block; gives an event: one is stored."""
    begin_turns, stored, go_on = server.service.store.begin_turns, asyncio.Event(), asyncio.Event()

    async def held(new):
        begun = await begin_turns(new)
        stored.set()
        await go_on.wait()
        return begun

    monkeypatch.setattr(server.service.store, "begin_turns", held)
    try:
        yield stored
    finally:
        go_on.set()


async def is_cancelled(server, asking):
    """Lets the engine go on once the turn that is asked for has no more to say to it than that it is cancelled."""
    await eventually(lambda: asking.done() or (server.gate.waited_for and not server.hub.engine._commands.empty()))
    server.gate.open()


async def test_delete_leaves_nothing_of_a_turn_that_is_just_being_stored(server, monkeypatch):
    conversation = await server.conversation()
    async with held_beginning(server, monkeypatch) as stored:
        body = {"input": "my secret", "conversation": conversation, **GREEDY, "max_output_tokens": 300}
        asking = asyncio.create_task(server.post("/v1/responses", body))
        await stored.wait()
        server.gate.hold()
        deleting = asyncio.create_task(server.delete(f"{PATH}/{conversation}"))
        while (await server.get(f"{PATH}/{conversation}")).status != 404:
            pass
        assert not deleting.done()
    await is_cancelled(server, asking)
    assert (await deleting).status == 200
    told = (await asking).json
    assert told["status"] == "cancelled"
    assert (await server.get(f"/v1/responses/{told['id']}")).status == 404
    assert set((await count(server.service.store)).values()) == {0}


async def test_delete_goes_on_when_its_client_leaves(server, monkeypatch):
    conversation = await server.conversation()
    async with held_beginning(server, monkeypatch) as stored:
        body = {"input": "my secret", "conversation": conversation, **GREEDY, "max_output_tokens": 300}
        asking = asyncio.create_task(server.post("/v1/responses", body))
        await stored.wait()
        server.gate.hold()
        deleting = asyncio.create_task(server.delete(f"{PATH}/{conversation}"))
        while (await server.get(f"{PATH}/{conversation}")).status != 404:
            pass
        deleting.cancel()
        await asyncio.wait([deleting])
    await is_cancelled(server, asking)
    assert (await asking).json["status"] == "cancelled"
    async with asyncio.timeout(DEADLINE):
        while (await count(server.service.store))["messages"]:
            pass


async def test_delete_leaves_nothing_of_a_turn_whose_end_was_not_stored(serve, monkeypatch):
    async with serve(hub={"pauses": ()}) as server:
        conversation = await server.conversation()

        async def refused(done):
            raise StoreError("the database is locked")

        with monkeypatch.context() as patch:
            patch.setattr(server.service.store, "finish_turn", refused)
            assert (await server.respond("my secret", conversation=conversation))["status"] == "failed"
        assert (await server.delete(f"{PATH}/{conversation}")).status == 200
        assert set((await count(server.service.store)).values()) == {0}


async def test_a_turn_that_waits_for_a_conversation_that_is_deleted_is_refused(server):
    conversation = await server.conversation()
    server.gate.hold(after=2)
    body = {"input": "Hello", "conversation": conversation, **GREEDY, "max_output_tokens": 300}
    first, second = (asyncio.create_task(server.post("/v1/responses", body)) for _ in range(2))
    await server.live_turn()
    await server.held()
    deleting = asyncio.create_task(server.delete(f"{PATH}/{conversation}"))
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await first).json["status"] == "cancelled"
    assert (await deleting).status == 200
    answer = await second
    assert answer.status == 404 or answer.json["conversation"]
    assert (await server.get(PATH)).json["data"] == []


async def test_very_many_messages_are_looked_at_beside_the_event_loop(server, monkeypatch):
    threads = set()

    def noted(work):
        def done(*given):
            threads.add((work.__name__, threading.current_thread() is threading.main_thread()))
            return work(*given)

        return done

    monkeypatch.setattr(routes_conversations, "message_items", noted(routes_conversations.message_items))
    monkeypatch.setattr(prompting, "check_bytes", noted(prompting.check_bytes))
    monkeypatch.setattr(routes_conversations, "as_markdown", noted(routes_conversations.as_markdown))
    monkeypatch.setattr(wire, "each_encoded", noted(wire.each_encoded))
    many = [{"type": "message", "role": "user", "content": "a"}] * (MUCH + 1)
    for items in (many[:2], many):
        threads.clear()
        conversation = await server.conversation(items=items)
        assert len(await server.items(conversation)) == min(len(items), 20)
        await server.post("/v1/responses", {"conversation": conversation, "input": "a", **GREEDY})
        for form in ("md", "json"):
            exported = await server.get(f"{PATH}/{conversation}/export?format={form}")
            assert exported.headers["content-type"].endswith("; charset=utf-8")
        works = ("message_items", "check_bytes", "as_markdown", "each_encoded")
        assert threads == {(work, items is not many) for work in works}
