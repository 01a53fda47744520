"""What of a conversation is in the cache, pins, forks, and what a client is told of its leases."""

import asyncio
import time

import pytest
from openai.types.conversations import Conversation
from sqlalchemy import text

from chatpager.server import websocket
from chatpager.sessions.heads import owner_of
from tests.looking import look
from tests.serving import BLOCK, GREEDY, eventually

PATH = "/v1/conversations"
LONG = "The quick brown fox jumps over the lazy dog. " * 3


async def talked(server, *inputs, **body):
    """A conversation with a turn for each input; its id and the responses."""
    conversation = await server.conversation(**body)
    return conversation, [await server.respond(text, conversation=conversation) for text in inputs]


async def test_a_conversations_cache(server):
    conversation, [response] = await talked(server, LONG)
    cache = (await server.get(f"{PATH}/{conversation}/cache")).json
    computed = response["usage"]["total_tokens"] - 1
    [lease] = cache.pop("leases")
    assert cache == {
        "object": "conversation.cache", "id": conversation,
        "tokens": computed, "device_tokens": computed, "host_tokens": 0, "disk_tokens": 0, "shared_tokens": 0,
    }  # fmt: skip
    assert (lease["strength"], lease["tokens"]) == ("soft", computed)
    assert 30 < lease["seconds_left"] <= 60


async def test_branches_that_begin_at_once_have_one_head(server):
    first = await server.respond(LONG)
    engine = await look(server.hub.engine, lambda engine: engine)
    asked = {"previous_response_id": first["id"], "chatpager": {"instructions": "tail"}}
    server.gate.hold()
    roles = [f"Read it as reader {n} would." for n in range(4)]
    branches = [asyncio.create_task(server.respond("What is it?", instructions=role, **asked)) for role in roles]
    await eventually(lambda: len(server.hub.turns) == 4)
    server.gate.hold(after=3)
    await server.held()
    refs = [block.ref for block in engine.pool.blocks]
    server.gate.open()
    told = await asyncio.gather(*branches)
    held = first["usage"]["total_tokens"] - 1
    assert refs.count(4) >= held // BLOCK > 3 and 1 in refs
    assert all(one["usage"]["input_tokens_details"]["cached_tokens"] >= held for one in told)


async def test_of_a_conversation_that_has_not_begun_nothing_is_cached(server):
    conversation = await server.conversation()
    cache = (await server.get(f"{PATH}/{conversation}/cache")).json
    assert (cache["tokens"], cache["device_tokens"], cache["leases"]) == (0, 0, [])
    answer = await server.call("PUT", f"{PATH}/{conversation}/pin")
    assert answer.refusal == (409, "nothing_cached", None)


async def test_a_pin_keeps_a_conversation_through_a_flood(serve):
    async with serve(blocks=200, length=160) as server:
        pinned, _ = await talked(server, LONG)
        other, _ = await talked(server, "Somebody else. " + LONG)
        pin = (await server.call("PUT", f"{PATH}/{pinned}/pin", {"ttl": 30})).json
        assert (pin["object"], pin["status"], pin["strength"]) == ("conversation.pin", "granted", "hard")
        assert 29 < pin["expires_in"] <= 30
        for _ in range(12):
            await talked(server, LONG[::-1] + str(_))
        again = await server.respond("And?", conversation=pinned)
        assert again["usage"]["input_tokens_details"]["cached_tokens"] >= pin["tokens"]
        assert (await server.delete(f"{PATH}/{pinned}/pin")).json["deleted"] is True
        assert other


async def test_a_pin_for_longer_than_a_lease_lasts_says_how_long(server):
    conversation, _ = await talked(server, LONG)
    pin = (await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 7200})).json
    assert 7190 < pin["expires_in"] <= 7200
    [hard] = [x for x in (await server.get(f"{PATH}/{conversation}/cache")).json["leases"] if x["strength"] == "hard"]
    assert 7000 < hard["seconds_left"] <= 7200
    [first] = (await server.get("/v1/cache/top?limit=1")).json["data"]
    assert max(lease["seconds_left"] for lease in first["leases"]) > 7190


async def test_a_later_pin_replaces_an_earlier_one(server):
    conversation, _ = await talked(server, LONG)
    for strength in ("hard", "soft"):
        granted = []
        for ttl, tokens in ((40, 40), (20, 16), (30, 24)):
            asked = {"ttl": ttl, "tokens": tokens, "strength": strength}
            pin = (await server.call("PUT", f"{PATH}/{conversation}/pin", asked)).json
            assert ttl - 10 < pin["expires_in"] <= ttl
            leases = (await server.get(f"{PATH}/{conversation}/cache")).json["leases"]
            [kept] = [lease for lease in leases if lease["strength"] == strength]
            assert ttl - 10 < kept["seconds_left"] <= ttl and kept["tokens"] == pin["tokens"]
            granted.append(pin["tokens"])
        assert granted == [40, 16, 24]


async def test_a_later_soft_pin_ends_a_hard_one(server):
    conversation, _ = await talked(server, LONG)
    await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 7200})
    pin = (await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 30, "strength": "soft"})).json
    server.hub.keeper.beat()
    [lease] = (await server.get(f"{PATH}/{conversation}/cache")).json["leases"]
    assert (lease["strength"], lease["tokens"]) == ("soft", pin["tokens"]) and lease["seconds_left"] <= 30


async def test_a_wish_of_a_turn_does_not_shorten_a_pin(server):
    conversation, _ = await talked(server, LONG)
    await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 7200})
    await server.respond("And?", conversation=conversation, chatpager={"pin": {"ttl": 5}})
    leases = (await server.get(f"{PATH}/{conversation}/cache")).json["leases"]
    assert max(lease["seconds_left"] for lease in leases) > 7000


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        ({}, 0),
        ({"prompt_cache_options": {"mode": "explicit"}}, 0),
        ({"prompt_cache_retention": "in_memory"}, 0),
        ({"prompt_cache_retention": "in-memory"}, 0),
        ({"prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": None}, 1800),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}, "prompt_cache_options": {"ttl": "12h"}}, 43_200),
    ],
)
async def test_a_wish_for_a_lifetime_is_a_pin(server, wish, seconds):
    conversation, _ = await talked(server)
    await server.respond(LONG, conversation=conversation, **wish)
    pin = server.hub.keeper._pins.get(owner_of("default", conversation))
    assert (pin.until - time.monotonic() if pin else 0) == pytest.approx(seconds, abs=60)
    leases = (await server.get(f"{PATH}/{conversation}/cache")).json["leases"]
    assert ("hard" in {lease["strength"] for lease in leases}) == (seconds > 0)


async def test_marks_on_messages_and_parts_pin_a_stateless_conversation_and_are_not_rendered(server):
    mark = {"type": "ephemeral", "ttl": "1h"}
    part = {"type": "text", "text": LONG, "cache_control": mark}
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": LONG}]
    marked = [{**plain[0], "cache_control": {"type": "ephemeral"}}, {"role": "user", "content": [part]}]
    counts = []
    for messages in (plain, marked):
        answer = await server.post("/v1/chat/completions", {"messages": messages, **GREEDY})
        counts.append(answer.json["usage"]["prompt_tokens"])
    assert counts[0] == counts[1]
    [pin] = server.hub.keeper._pins.values()
    assert pin.until - time.monotonic() == pytest.approx(3600, abs=60)


async def test_the_same_asked_once_more_without_a_mark_leaves_it_pinned(server):
    asked = {"messages": [{"role": "user", "content": LONG}], **GREEDY}
    await server.post("/v1/chat/completions", {**asked, "cache_control": {"type": "ephemeral", "ttl": "1h"}})
    [before] = server.hub.keeper._pins
    await server.post("/v1/chat/completions", asked)
    [(owner, pin)] = server.hub.keeper._pins.items()
    assert owner != before, "another head stands at the conversation's end"
    assert pin.until - time.monotonic() == pytest.approx(3600, abs=60)
    top = (await server.get("/v1/cache/top")).json["data"]
    assert ["hard" in {lease["strength"] for lease in row["leases"]} for row in top] == [True]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ttl": 0}, "ttl"),
        ({"ttl": "a"}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"strength": "iron"}, "strength"),
        ({"strength": 1}, "strength"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 1.5}, "tokens"),
        ({"ttl": 86_401}, "ttl"),
        ({"ttl": 1e300}, "ttl"),
        ({"ttl": 601, "strength": "soft"}, "ttl"),
    ],
)
async def test_what_is_no_pin(server, body, param):
    conversation, _ = await talked(server, "Hello")
    answer = await server.call("PUT", f"{PATH}/{conversation}/pin", body)
    assert answer.refusal == (400, "invalid_request", param)


async def test_who_asks_for_more_than_a_day_is_told_the_limit(server):
    conversation, _ = await talked(server, LONG)
    for asked, limit in (({"ttl": 1e6}, "86400"), ({"ttl": 1e6, "strength": "soft"}, "600")):
        assert limit in (await server.call("PUT", f"{PATH}/{conversation}/pin", asked)).error["message"]
    assert (await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 86_400})).status == 200
    for path, body in (
        ("/v1/responses", {"input": "a", "chatpager": {"pin": {"ttl": 86_401}}}),
        ("/v1/prefixes", {"label": "a", "instructions": LONG, "ttl": 86_401}),
    ):
        answer = await server.post(path, body)
        assert answer.refusal[:2] == (400, "invalid_request") and "86400" in answer.error["message"], path


@pytest.mark.parametrize(("method", "name"), [("GET", "cache"), ("PUT", "pin"), ("DELETE", "pin"), ("POST", "fork")])
async def test_of_a_conversation_that_is_not_there(server, method, name):
    answer = await server.call(method, f"{PATH}/conv_none/{name}")
    assert answer.refusal == (404, "conversation_not_found", None)


async def test_a_fork_has_the_same_past_and_a_future_of_its_own(server):
    conversation, responses = await talked(server, LONG, "Two.", "Three.", metadata={"title": "One"})
    fork = (await server.post(f"{PATH}/{conversation}/fork", {"at": responses[1]["id"]})).json
    Conversation.model_validate(fork)
    assert fork["chatpager"]["forked_from"] == conversation
    items = await server.items(fork["id"])
    assert [i["content"] for i in items] == [i["content"] for i in (await server.items(conversation))[:4]]
    there = await server.respond("Elsewhere.", conversation=fork["id"])
    past = responses[1]["usage"]["total_tokens"] - 1
    assert there["usage"]["input_tokens_details"]["cached_tokens"] >= past // BLOCK * BLOCK
    assert len(await server.items(fork["id"])) == 6
    assert len(await server.items(conversation)) == 6
    cache = (await server.get(f"{PATH}/{fork['id']}/cache")).json
    assert cache["shared_tokens"] >= past // BLOCK * BLOCK


async def test_a_cache_key_changes_nothing(server):
    """Neither does the same one bring together what differs, nor do two keep apart what is the same."""
    first = await server.respond(LONG, prompt_cache_key="a")
    same = await server.respond(LONG, prompt_cache_key="b")
    other = await server.respond(LONG[::-1], prompt_cache_key="a")
    cached = [r["usage"]["input_tokens_details"]["cached_tokens"] for r in (first, same, other)]
    assert cached[0] == 0 < first["usage"]["input_tokens"] - 1 == cached[1]
    assert cached[2] < BLOCK * 2


async def test_a_fork_of_all_of_it(server):
    conversation, _ = await talked(server, "Hello")
    fork = (await server.post(f"{PATH}/{conversation}/fork")).json
    assert len(await server.items(fork["id"])) == 2


async def test_a_fork_too_many(serve):
    """A loop that forks without end meets its end."""
    async with serve(max_forks=20) as server:
        last = await server.conversation()
        for _ in range(20):
            last = (await server.post(f"{PATH}/{last}/fork")).json["id"]
        answer = await server.post(f"{PATH}/{last}/fork")
        assert answer.refusal == (409, "too_many_forks", None)
        assert len((await server.get("/v1/conversations?limit=100")).json["data"]) == 21
        await server.delete(f"{PATH}/{last}")
        assert (await server.post(f"{PATH}/{(await server.conversation())}/fork")).status == 200


@pytest.mark.parametrize("at", [3, "resp_none"])
async def test_a_fork_at_nothing(server, at):
    conversation, _ = await talked(server, "Hello")
    answer = await server.post(f"{PATH}/{conversation}/fork", {"at": at})
    assert answer.status == (400 if at == 3 else 404)


async def test_a_fork_at_another_conversations_answer_or_one_that_runs(serve):
    async with serve(lambda prompt: "one two three") as server:
        one, [response] = await talked(server, "Hello")
        other = await server.conversation()
        answer = await server.post(f"{PATH}/{other}/fork", {"at": response["id"]})
        assert answer.refusal == (404, "response_not_found", None)
        server.gate.hold()
        running = asyncio.ensure_future(server.respond("Hold", conversation=one))
        turn = await server.live_turn()
        answer = await server.post(f"{PATH}/{one}/fork", {"at": turn.id})
        assert answer.refusal == (409, "session_busy", None)
        server.gate.open()
        await running


async def test_a_deleted_conversation_has_no_head(server):
    conversation, _ = await talked(server, LONG)
    await server.delete(f"{PATH}/{conversation}")
    heads = await look(server.hub.engine, lambda engine: len(engine.leases.heads))
    assert heads == 0


async def test_what_was_evicted_says_when_as_what_and_by_whom(serve):
    async with serve(blocks=40, length=250) as server:
        mine, [first] = await talked(server, LONG)
        await server.delete(f"{PATH}/{mine}/pin")
        rest = 39 * BLOCK - first["usage"]["total_tokens"]
        assert rest < 240
        other, _ = await talked(server, "x" * (rest - 4))
        again = await server.respond("And?", conversation=mine)
        cache = again["chatpager"]["cache"]
        assert cache["miss_reason"] == "evicted"
        lost = cache["evicted"]
        assert lost["seconds_ago"] >= 0
        assert (lost["eviction_class"], lost["by"], lost["lease_expired"]) == ("idle", other, False)


async def test_a_chain_of_responses_is_one_conversation_to_the_cache(server):
    first = await server.respond(LONG)
    second = await server.respond("Two.", previous_response_id=first["id"])
    await server.respond("Three.", previous_response_id=second["id"])
    assert await look(server.hub.engine, lambda engine: len(engine.leases.heads)) == 1
    await server.respond("Another way.", previous_response_id=first["id"])
    assert await look(server.hub.engine, lambda engine: len(engine.leases.heads)) == 2


async def test_a_client_is_told_when_its_lease_is_revoked(serve):
    async with serve(blocks=40, length=250) as server:
        conversation = await server.conversation()
        async with server.socket(extended=True) as ours, server.socket() as theirs:
            for socket in (ours, theirs):
                await socket.create(LONG[:40], conversation=conversation)
                await socket.rest()
            await server.respond("x" * 225, store=False)
            frame = await ours.receive()
            assert (frame["type"], frame["conversation"]) == ("chatpager.lease", conversation)
            assert (frame["change"], frame["strength"]) == ("revoked", "soft")
            assert frame["tokens"] > 0 and frame["reason"]
            await theirs.create("Still there?", conversation=conversation)
            assert not [f for f in await theirs.rest() if f["type"] == "chatpager.lease"]


async def test_a_socket_keeps_only_the_conversations_it_spoke_in_last(server, monkeypatch):
    monkeypatch.setattr(websocket, "MAX_CONVERSATIONS", 2)
    ids = [await server.conversation() for _ in range(3)]
    async with server.socket() as socket:
        for conversation in (*ids[:2], ids[0], ids[2]):
            await socket.create("Hello", conversation=conversation)
            await socket.rest()
        assert set(server.hub.keeper._watchers) == {owner_of("default", ids[i]) for i in (0, 2)}


async def test_an_open_connection_is_a_heartbeat(serve):
    async with serve() as server:
        server.service.beat_seconds = 0.01
        conversation = await server.conversation()
        async with server.socket() as socket:
            await socket.create(LONG, conversation=conversation)
            await socket.rest()
            assert (await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 30})).status == 200
            leases = []

            def renewed():
                return any(lease["seconds_left"] > 50 and lease["strength"] == "hard" for lease in leases)

            while not renewed():
                leases = (await server.get(f"{PATH}/{conversation}/cache")).json["leases"]
        await eventually(lambda: not server.hub.keeper._watchers)


async def test_a_fork_has_the_blocks_of_its_past_from_the_start(server):
    conversation, responses = await talked(server, LONG, "Two.")
    first, whole = [
        (await server.post(f"{PATH}/{conversation}/fork", body)).json["id"] for body in ({"at": responses[0]["id"]}, {})
    ]
    sizes = [r["usage"]["total_tokens"] - 1 for r in responses]
    sizes[0] = sizes[0] // BLOCK * BLOCK  # behind that the block goes on with the second turn: a turn will copy it
    for fork, size in zip((first, whole), sizes, strict=True):
        cache = (await server.get(f"{PATH}/{fork}/cache")).json
        assert (cache["tokens"], cache["device_tokens"], cache["shared_tokens"]) == (size, size, size)
        assert (await server.call("PUT", f"{PATH}/{fork}/pin")).json["tokens"] == size


async def test_a_fork_of_a_fork_at_an_answer_of_the_first_one(server):
    conversation, responses = await talked(server, LONG, "Two.")
    fork = (await server.post(f"{PATH}/{conversation}/fork")).json["id"]
    again = (await server.post(f"{PATH}/{fork}/fork", {"at": responses[0]["id"]})).json["id"]
    assert len(await server.items(again)) == 2
    size = (responses[0]["usage"]["total_tokens"] - 1) // BLOCK * BLOCK
    assert (await server.get(f"{PATH}/{again}/cache")).json["tokens"] == size
    back = await server.post(f"{PATH}/{again}/fork", {"at": responses[1]["id"]})
    assert back.refusal == (404, "response_not_found", None)


async def test_a_receipt_says_that_a_lease_was_revoked(serve):
    async with serve(blocks=40, length=250) as server:
        mine, _ = await talked(server, LONG)
        await server.respond("x" * 225, store=False)
        cache = (await server.respond("And?", conversation=mine))["chatpager"]["cache"]
        assert cache["miss_reason"] == "evicted"
        assert (cache["evicted"]["lease_revoked"], cache["evicted"]["lease_expired"]) == (True, False)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"engine": {"enable_prefix_caching": False}}, "prefix caching is off"),
        ({"blocks": 36, "length": 272}, "lease_share"),
    ],
)
async def test_a_pin_that_would_hold_nothing_is_refused_with_the_cause(serve, setting, words):
    async with serve(**setting) as server:
        conversation, _ = await talked(server, LONG)
        answer = await server.call("PUT", f"{PATH}/{conversation}/pin")
        assert answer.refusal == (409, "nothing_cached", None)
        assert words in answer.json["error"]["message"]
        leases = (await server.get(f"{PATH}/{conversation}/cache")).json["leases"]
        assert "hard" not in {lease["strength"] for lease in leases}


async def test_who_has_most_of_the_cache(server):
    small, _ = await talked(server, LONG[:40])
    large, _ = await talked(server, LONG, "Two.")
    alone = await server.respond(LONG[:80], **GREEDY)
    await server.conversation()
    found = (await server.get("/v1/cache/top")).json["data"]
    assert [row["id"] for row in found] == [large, alone["id"], small]
    cache = (await server.get(f"{PATH}/{large}/cache")).json
    assert found[0] == cache | {"leases": found[0]["leases"], "tenant": "default"}
    assert [row["id"] for row in (await server.get("/v1/cache/top?limit=1")).json["data"]] == [large]
    assert (await server.get("/v1/cache/top?limit=0")).refusal == (400, "invalid_request", "limit")
    others = await server.hub.keeper.largest("someone", 10)
    assert others == []


async def test_a_pin_of_a_response_ends_with_the_response(server):
    response = await server.respond(LONG, prompt_cache_retention="24h", **GREEDY)
    assert len(server.hub.keeper._pins) == 1
    later = await server.respond("Two.", previous_response_id=response["id"], **GREEDY)
    await server.delete(f"/v1/responses/{later['id']}")
    assert not server.hub.keeper._pins
    assert (await server.get("/v1/cache/top")).json["data"] == []


async def test_a_wish_for_what_is_not_kept_is_warned_of(server):
    response = await server.respond(LONG, store=False, prompt_cache_retention="24h", **GREEDY)
    assert response["chatpager"]["warnings"] == [
        "nothing is kept of a turn with store: false, so its prefix is not pinned either"
    ]


async def test_a_fork_at_a_turn_that_a_crash_cut_off_takes_none_of_what_came_later(server):
    conversation, responses = await talked(server, "Hello", LONG)
    async with server.hub.store._database.write("test") as connection:
        await connection.execute(text("UPDATE turns SET usage = NULL WHERE id = :id"), {"id": responses[0]["id"]})
    fork = (await server.post(f"{PATH}/{conversation}/fork", {"at": responses[0]["id"]})).json["id"]
    assert (await server.get(f"{PATH}/{fork}/cache")).json["tokens"] == 0


async def test_a_pin_that_is_clipped_again_and_again_is_told_of_once(serve):
    async with serve(blocks=36, length=248) as server:
        conversation = await server.conversation()
        async with server.socket(extended=True) as socket:
            await socket.create(LONG, conversation=conversation)
            await socket.rest()
            pin = (await server.call("PUT", f"{PATH}/{conversation}/pin", {"ttl": 600})).json
            assert pin["status"] == "clipped"
            for _ in range(3):
                server.hub.keeper.beat()
            await server.call("DELETE", f"{PATH}/{conversation}/pin")
            await socket.create("Two.", conversation=conversation)
            frames = [f["change"] for f in await socket.rest() if f["type"] == "chatpager.lease"]
            assert frames.count("clipped") <= 1


async def test_an_early_response_s_deletion_leaves_the_conversation_its_prefix(server):
    first = await server.respond(LONG, **GREEDY)
    second = await server.respond("And then?", previous_response_id=first["id"], **GREEDY)

    async def kept():
        return [(row["id"], row["device_tokens"]) for row in (await server.get("/v1/cache/top")).json["data"]]

    [(name, tokens)] = await kept()
    assert name == first["id"] and tokens > 0
    assert (await server.delete(f"/v1/responses/{first['id']}")).status == 200
    assert await kept() == [(name, tokens)]
    third = await server.respond("So what?", previous_response_id=second["id"], **GREEDY)
    assert third["usage"]["input_tokens_details"]["cached_tokens"] > 0
    for response in (second, third):
        assert (await server.delete(f"/v1/responses/{response['id']}")).status == 200
    assert await kept() == []


async def test_events_of_the_cache_are_followed_by_number(server):
    before = (await server.get("/v1/cache/events")).json
    await talked(server, LONG)
    now = (await server.get(f"/v1/cache/events?after={before['last_sequence_number']}")).json
    assert (now["object"], now["missed"], now["epoch"]) == ("list", 0, before["epoch"])
    stored = [event for event in now["data"] if event["type"] == "block.stored"]
    assert [event["sequence_number"] for event in stored] == [
        before["last_sequence_number"] + 1 + i for i in range(len(stored))
    ]
    assert stored[0]["parent"] is None
    assert [event["parent"] for event in stored[1:]] == [event["block"] for event in stored[:-1]]
    one = (await server.get(f"/v1/cache/events?after={before['last_sequence_number']}&limit=1")).json
    assert one["data"] == now["data"][:1]
    everything = (await server.get("/v1/cache/events")).json["data"]
    assert [event["block"] for event in everything] == [event["block"] for event in (*before["data"], *stored)]


@pytest.mark.parametrize(
    ("query", "param"), [("after=-1", "after"), ("after=x", "after"), ("limit=0", "limit"), ("limit=99999", "limit")]
)
async def test_wrong_numbers_of_events_are_refused(server, query, param):
    answer = await server.get(f"/v1/cache/events?{query}")
    assert answer.refusal == (400, "invalid_request", param)
