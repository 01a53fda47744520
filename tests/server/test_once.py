"""A response that is asked for twice is begun once."""

import asyncio
import json

import pytest

from chatpager.errors import StoreError
from chatpager.server.keyed import Keyed, Name, text_as_it_is, whole_turns
from chatpager.sessions.recent import TURN_BYTES
from tests.serving import GREEDY, eventually

ASK = {"input": "Hello", **GREEDY}


def keyed(key):
    return {"headers": {"Idempotency-Key": key}}


async def count(server, conversation):
    return len(await server.items(conversation))


async def test_the_second_time_it_is_the_same_response(server):
    conversation = await server.conversation()
    ask = {**ASK, "conversation": conversation}
    first, second = [await server.post("/v1/responses", ask, **keyed("k")) for _ in range(2)]
    assert first.json == second.json
    assert await count(server, conversation) == 2
    streamed = await server.post("/v1/responses", {**ask, "stream": True}, **keyed("k"))
    assert streamed.body.count(b"event: response.created") == 1
    assert first.json["id"].encode() in streamed.body
    other = await server.post("/v1/responses", ask, **keyed("another"))
    assert other.json["id"] != first.json["id"]


async def test_while_it_runs_the_second_follows_the_first(server):
    conversation = await server.conversation()
    ask = {**ASK, "conversation": conversation}
    server.gate.hold(after=3)
    first = asyncio.create_task(server.post("/v1/responses", ask, **keyed("k")))
    await server.live_turn()
    second = asyncio.create_task(server.post("/v1/responses", ask, **keyed("k")))
    async with server.socket() as socket:
        await socket.create("Hello", conversation=conversation, idempotency_key="k")
        created = await socket.receive()
        await server.held()
        server.gate.open()
        told = [(await first).json, (await second).json, (await socket.rest())[-1]["response"]]
    assert created["response"]["id"] == told[0]["id"]
    assert told[0] == told[1] == told[2]
    assert await count(server, conversation) == 2


async def test_two_that_come_at_once_are_one(server):
    conversation = await server.conversation()
    ask = {**ASK, "conversation": conversation}
    answers = await asyncio.gather(*(server.post("/v1/responses", ask, **keyed("k")) for _ in range(8)))
    assert len({answer.json["id"] for answer in answers}) == 1
    assert await count(server, conversation) == 2


async def test_a_reader_that_leaves_ends_nothing_that_its_key_finds_again(server):
    server.gate.hold(after=3)
    first = asyncio.create_task(server.post("/v1/responses", ASK, **keyed("k")))
    turn = await server.live_turn()
    first.cancel()
    await eventually(first.done)
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "incomplete"
    assert (await server.post("/v1/responses", ASK, **keyed("k"))).json["id"] == turn.id


async def test_one_that_waits_and_loses_its_socket_is_begun_once(server):
    conversation = await server.conversation()
    server.gate.hold(after=2)
    ahead = asyncio.create_task(server.respond("one", conversation=conversation))
    await server.live_turn()
    for waiting in (2, 3):
        async with server.socket() as socket:
            await socket.create("two", conversation=conversation, idempotency_key="k")
            await eventually(lambda waiting=waiting: server.hub._admission._places.taken == waiting)
            if waiting == 3:
                server.gate.open()
                assert (await socket.rest())[-1]["type"] == "response.incomplete"
    await ahead
    said = [item["content"][0]["text"] for item in await server.items(conversation) if item["role"] == "user"]
    assert said == ["one", "two"]


async def test_one_that_ended_long_ago_is_told_from_the_store(serve):
    async with serve(hub={"replay_seconds": 0.0}) as server:
        first = await server.post("/v1/responses", ASK, **keyed("k"))
        assert (await server.post("/v1/responses", ASK, **keyed("k"))).json == first.json
        streamed = await server.post("/v1/responses", {**ASK, "stream": True}, **keyed("k"))
        told = [json.loads(line[6:]) for line in streamed.body.decode().splitlines() if line.startswith("data: ")]
        async with server.socket() as socket:
            await socket.create("Hello", idempotency_key="k")
            assert await socket.rest() == told
            await socket.create("Hello again")
            assert (await socket.rest())[-1]["type"] == "response.incomplete", "the lane is free again"
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert told[0]["type"] == "response.created" and told[0]["response"]["status"] == "in_progress"
        assert told[-1]["type"] == "response.incomplete" and told[-1]["response"] == first.json
        [delta] = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
        assert delta == first.json["output"][0]["content"][0]["text"]
        assert (await server.get(f"/v1/responses/{first.json['id']}?stream=true")).status == 410


async def test_after_a_restart_it_is_the_one_that_was(serve):
    async with serve() as server:
        ask = {**ASK, "conversation": await server.conversation()}
        first = await server.post("/v1/responses", ask, **keyed("k"))
    async with serve() as server:
        assert (await server.post("/v1/responses", ask, **keyed("k"))).json == first.json
        other = await server.post("/v1/responses", {**ask, "input": "Something else"}, **keyed("k"))
        assert other.refusal == (409, "idempotency_conflict", None)
        assert await count(server, ask["conversation"]) == 2


async def test_the_same_key_with_something_else_is_a_conflict(server):
    first = await server.post("/v1/responses", ASK, **keyed("k"))
    other = await server.post("/v1/responses", {**ASK, "input": "Something else"}, **keyed("k"))
    assert other.refusal == (409, "idempotency_conflict", None)
    assert first.json["id"] in other.error["message"]


async def test_what_is_not_stored_has_no_key(server):
    told = [await server.post("/v1/responses", {**ASK, "store": False}, **keyed("k")) for _ in range(2)]
    assert told[0].json["id"] != told[1].json["id"]
    assert any("key" in warning for warning in told[0].json["chatpager"]["warnings"])


@pytest.mark.parametrize("key", ["", "x" * 256, 7, "a\nb"])
async def test_what_is_no_key(server, key):
    async with server.socket() as socket:
        await socket.create("Hello", idempotency_key=key)
        error = await socket.receive()
        assert (error["error"]["code"], error["error"]["param"]) == ("invalid_request", "idempotency_key")


USER = [{"role": "user", "content": "Hello"}]
SHORT = {"temperature": 0, "max_tokens": 8}
OTHERS = [
    ("/v1/chat/completions", {"messages": USER, "n": 2, "ignore_eos": True, **SHORT}),
    ("/v1/completions", {"prompt": ["one", "two"], "ignore_eos": True, **SHORT}),
    ("/v1/messages", {"messages": USER, **SHORT}),
]
others = pytest.mark.parametrize(("path", "body"), OTHERS, ids=["chat", "completions", "messages"])


def begun(server):
    return sum(sample.value for sample in turns_counted(server))


def turns_counted(server):
    [family] = server.service.metrics._turns.collect()
    return [sample for sample in family.samples if sample.name.endswith("_total")]


async def streamed(server, path, body, key):
    answer = await server.post(path, {**body, "stream": True}, **keyed(key))
    assert answer.status == 200, answer.body
    return [line for line in answer.body.decode().splitlines() if line.startswith("data: ")]


@others
async def test_other_wires_tell_the_same_answer_again(server, path, body):
    first, second = [await server.post(path, body, **keyed("k")) for _ in range(2)]
    assert first.status == second.status == 200 and first.json == second.json
    assert "warnings" not in first.json["chatpager"]
    count = begun(server)
    frames = await streamed(server, path, body, "k")
    assert any(first.json["id"] in frame for frame in frames)
    assert frames == await streamed(server, path, body, "k")
    assert begun(server) == count
    assert (await server.post(path, body, **keyed("another"))).json["id"] != first.json["id"]
    assert (await server.post(path, body)).json["id"] != first.json["id"]


@others
async def test_other_wires_refuse_a_key_that_came_with_something_else(server, path, body):
    await server.post(path, body, **keyed("k"))
    other = await server.post(path, {**body, "max_tokens": 7}, **keyed("k"))
    assert other.status == 409 and b"this key came before with another request" in other.body
    elsewhere = next(one for one in OTHERS if one[0] != path)
    assert (await server.post(*elsewhere, **keyed("k"))).status == 200, "each path has its own keys"
    wrong = await server.post(path, body, **keyed("x" * 256))
    assert wrong.status == 400 and b"Idempotency-Key" in wrong.body


@others
async def test_on_other_wires_those_that_come_at_once_are_one(server, path, body):
    server.gate.hold(after=3)
    asking = [asyncio.create_task(server.post(path, body, **keyed("k"))) for _ in range(3)]
    asking.append(asyncio.create_task(streamed(server, path, body, "k")))
    await server.held()
    asking.append(asyncio.create_task(server.post(path, body, **keyed("k"))))
    server.gate.open()
    *whole, frames = [await one for one in (*asking[:3], asking[4], asking[3])]
    assert len({answer.json["id"] for answer in whole}) == 1
    assert any(whole[0].json["id"] in frame for frame in frames)


@others
async def test_on_other_wires_an_answer_that_was_cut_off_is_not_told_again(server, path, body):
    server.gate.hold(after=3)
    asking = asyncio.create_task(server.post(path, body, **keyed("k")))
    await server.held()
    for turn in list(server.hub.turns.values()):
        server.hub.cancel(turn.request.tenant, turn.id)
    server.gate.open()
    first = await asking
    await eventually(lambda: not server.service.keyed._running)
    count = begun(server)
    again = await server.post(path, body, **keyed("k"))
    assert again.status == 200 and again.json["id"] != first.json["id"]
    assert begun(server) > count


@others
async def test_on_other_wires_a_reader_that_leaves_ends_nothing_that_its_key_finds_again(server, path, body):
    server.gate.hold(after=3)
    asking = asyncio.create_task(server.post(path, body, **keyed("k")))
    await server.held()
    ids = set(server.hub.turns)
    asking.cancel()
    await eventually(lambda: server.service.readers.alone.keys() == ids)
    again = asyncio.create_task(server.post(path, body, **keyed("k")))
    await eventually(lambda: not server.service.readers.alone)
    server.gate.open()
    assert (await again).json["id"] in ids


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_on_other_wires_what_is_not_stored_or_was_deleted_has_no_key(server, path):
    body = {"messages": USER, **SHORT}
    told = [(await server.post(path, {**body, "store": False}, **keyed("k"))).json for _ in range(2)]
    assert told[0]["id"] != told[1]["id"] and any("key" in one for one in told[0]["chatpager"]["warnings"])
    first, again = [(await server.post(path, body, **keyed("k"))).json["id"] for _ in range(2)]
    assert first == again
    assert (await server.delete(f"{path}/{first}")).status == 200
    assert (await server.post(path, body, **keyed("k"))).json["id"] != first


async def test_on_other_wires_a_key_whose_request_was_refused_is_free_again(serve):
    async with serve(hub={"max_turns": 1}) as server:
        path, body = OTHERS[-1]
        server.gate.hold(after=3)
        first = asyncio.create_task(server.post(path, body, **keyed("first")))
        await server.held()
        assert (await server.post(path, body, **keyed("k"))).status == 529
        server.gate.open()
        assert (await first).status == 200
        assert (await server.post(path, body, **keyed("k"))).status == 200


async def test_a_conversation_and_what_is_added_to_it_are_made_once(server):
    ask = {"metadata": {"title": "Tea"}}
    first, second = await asyncio.gather(*(server.post("/v1/conversations", ask, **keyed("k")) for _ in range(2)))
    assert first.status == second.status == 200 and first.json == second.json
    assert (await server.post("/v1/conversations", {}, **keyed("k"))).refusal == (409, "idempotency_conflict", None)
    path = f"/v1/conversations/{first.json['id']}"
    assert (await server.post(f"{path}/items", {"items": "a"}, **keyed("k"))).status == 400, "the key is free again"
    added = [await server.post(f"{path}/items", {"items": USER}, **keyed("k")) for _ in range(2)]
    assert added[0].json == added[1].json and await count(server, first.json["id"]) == 1
    await server.respond("Hello", conversation=first.json["id"])
    await server.respond("Hello", conversation=first.json["id"])
    forks = [(await server.post(f"{path}/fork", **keyed("k"))).json["id"] for _ in range(2)]
    assert forks[0] == forks[1] != first.json["id"]
    short = {"summary": "We greeted."}
    compacted = [await server.post(f"{path}/compact", short, **keyed("k")) for _ in range(2)]
    assert compacted[0].status == 200 and compacted[0].json == compacted[1].json
    assert (await server.post(f"{path}/compact", short, **keyed("x" * 256))).refusal[0] == 400
    await server.delete(path)
    assert not kept(server, first.json["id"])
    assert (await server.post("/v1/conversations", ask, **keyed("k"))).json["id"] != first.json["id"]


async def test_a_store_that_fails_behind_a_write_has_nothing_done_twice(server, monkeypatch):
    conversation = await server.conversation()
    first, path = await server.respond("Hello", conversation=conversation), f"/v1/conversations/{conversation}"
    asks = {"/v1/conversations": {"items": USER}, f"{path}/items": {"items": USER}, f"{path}/fork": {"at": first["id"]}}
    for where, ask in asks.items():
        with monkeypatch.context() as patch:
            fail_behind_a_write(server.service.store._database, patch)
            told = await server.post(where, ask, **keyed("k"))
        again = await server.post(where, ask, **keyed("k"))
        assert told.status == again.status == 200 and told.json == again.json, where
    assert await count(server, conversation) == 3
    begun = (await server.get("/v1/conversations")).json["data"]
    assert len(begun) == 3 and sorted([await count(server, one["id"]) for one in begun]) == [1, 2, 3]


def fail_behind_a_write(database, patch):
    writing, reading, written = database.writing, database.reading, []

    async def write_once(name, *args, **more):
        if written:
            raise StoreError("the database is locked")
        done = await writing(name, *args, **more)
        written.append(name)
        return done

    async def read_before(*args, **more):
        if written:
            raise StoreError("the database is locked")
        return await reading(*args, **more)

    patch.setattr(database, "writing", write_once)
    patch.setattr(database, "reading", read_before)


async def test_what_was_deleted_is_not_told_again_and_all_else_is(server, monkeypatch):
    conversation = await server.conversation()
    path = f"/v1/conversations/{conversation}"
    asks = {"secret": f"{path}/items", "other": f"{path}/items", "fork": f"{path}/fork"}

    async def ask(key):
        body = {} if key == "fork" else {"items": [{"role": "user", "content": key}]}
        return await server.post(asks[key], body, **keyed(key))

    told = {key: (await ask(key)).json for key in asks}
    secret = f"{path}/items/{told['secret']['data'][0]['id']}"
    await leave_in_the_middle(server, monkeypatch, "compact_session", secret)
    await eventually(lambda: len(kept(server, conversation)) == 2)
    assert [(await ask(key)).json == told[key] for key in asks] == [False, True, True]
    await leave_in_the_middle(server, monkeypatch, "delete_session", path)
    await eventually(lambda: not kept(server, conversation))
    assert (await ask("other")).status == 404


def kept(server, conversation):
    return [name for of in server.service.answered._ended.values() for name in of if conversation in name.path]


async def leave_in_the_middle(server, monkeypatch, work, path):
    """A client asks for a deletion, and is gone when the store has done its ``work``."""
    done, left = asyncio.Event(), asyncio.Event()
    real = getattr(server.service.store, work)

    async def held(*args, **more):
        found = await real(*args, **more)
        done.set()
        await left.wait()
        return found

    monkeypatch.setattr(server.service.store, work, held)
    deleting = asyncio.create_task(server.delete(path))
    await done.wait()
    deleting.cancel()
    await asyncio.wait([deleting])
    await server.get("/health")  # by then the server knows
    left.set()


class Ended:
    """A turn that gave so much text."""

    def __init__(self, text=""):
        self.text, self.prompt, self.status = text, [1, 2], "completed"
        self.stream = self
        self.events = [self]

    async def end(self):
        return self

    def forget_prompt(self):
        self.prompt = range(len(self.prompt))


class Asked:
    """Keys of ``Keyed``, and how often each was begun."""

    def __init__(self, end=whole_turns, **settings):
        self.now, self.count = 0.0, 0
        self.keyed = Keyed(end, clock=lambda: self.now, **settings)

    async def ask(self, key, tenant="t", text=""):
        async def begin():
            self.count += 1
            return [Ended(text)]

        [turn] = await self.keyed.begin(Name(tenant, "/", key), "asked", 10, begin)
        await eventually(lambda: not self.keyed._running)
        return turn


async def test_a_key_is_known_for_as_long_as_is_said():
    asked = Asked(seconds=600.0)
    await asked.ask("k")
    asked.now = 599.0
    kept = await asked.ask("k")
    assert asked.count == 1 and kept.prompt == range(2)
    await asked.ask("other")
    asked.now = 600.0
    await asked.ask("k")
    assert asked.count == 3
    await asked.ask("other")
    assert asked.count == 3
    await asked.ask("k", tenant="another")
    assert asked.count == 4


async def test_what_is_kept_has_a_bound():
    asked = Asked(size=2000 + 2 * TURN_BYTES)
    for key in "abc":
        await asked.ask(key, text="x" * 700)
    await asked.ask("c")
    await asked.ask("b")
    assert asked.count == 3
    await asked.ask("a")
    assert asked.count == 4
    await asked.ask("d", text="x" * (5000 + 2 * TURN_BYTES))
    await asked.ask("d", text="x" * (5000 + 2 * TURN_BYTES))
    assert asked.count == 6 and not asked.keyed._ended


async def test_what_is_kept_goes_in_time_also_if_nobody_asks_again():
    asked = Asked(seconds=0.0)
    await asked.ask("k")
    await eventually(lambda: not asked.keyed._ended)


async def test_who_keeps_most_loses_it_first():
    asked = Asked(size=4000 + 5 * TURN_BYTES)
    await asked.ask("k", tenant="small", text="x" * 300)
    for key in "abcdef":
        await asked.ask(key, text="x" * 700)
    await asked.ask("k", tenant="small")
    assert asked.count == 7
    await asked.ask("a")
    assert asked.count == 8


async def test_text_counts_in_bytes():
    assert await text_as_it_is("\u4f60\U0001f600") == ("\u4f60\U0001f600", 7)


async def test_what_is_forgotten_while_it_begins_or_ends():
    """Neither a ``KeyError`` in the loop's handler, nor ``CancelledError`` for who forgets, nor a key for ever."""
    wrong = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
    keyed, name, going = Keyed(text_as_it_is), Name("t", "/", "k"), asyncio.Event()

    async def begin():
        await going.wait()
        return "text"

    async def forget():
        await going.wait()
        keyed.forget(lambda *_: True)

    asking = asyncio.create_task(keyed.begin(name, "asked", 1, begin))
    await eventually(lambda: going._waiters)
    forgetting = asyncio.create_task(forget())
    await eventually(lambda: len(going._waiters) == 2)
    going.set()  # one goes on right behind the other, and ahead of what the first one's end calls
    await forgetting
    assert await asking == "text" and not keyed._ended
    going.clear()
    asking = asyncio.create_task(keyed.begin(name, "asked", 1, begin))
    await eventually(lambda: keyed._running)
    keyed._running[name].held.cancel()
    await asyncio.wait([keyed._running[name].held])
    keyed.forget(lambda *_: True)
    await asyncio.wait([asking])
    assert asking.cancelled() and not wrong
    asking = asyncio.create_task(keyed.begin(name, "asked", 1, begin))
    await eventually(lambda: keyed._running)
    keyed.forget(lambda name, text: name.path == "/" and text is None)
    going.set()
    assert await asking == "text" and not keyed._running and not keyed._ended


async def test_a_key_whose_end_went_wrong_is_free_again():
    async def end(turns):
        raise RuntimeError("the end")

    asked = Asked(end)
    await asked.ask("k")
    await asked.ask("k")
    assert asked.count == 2
