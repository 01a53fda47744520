"""A conversation's prefix below the device: what a client sees of it in receipts, faces and figures."""

import asyncio
import re
import shutil

import pytest

from chatpager.errors import TenantPaused
from chatpager.store import Limits
from tests.looking import look
from tests.serving import GREEDY, eventually

LONG = "The quick brown fox jumps over the lazy dog. " * 3
SMALL = {"blocks": 60, "length": 240}


def cache_of(response):
    cache = response["chatpager"]["cache"]
    sources = [cache[f"{name}_tokens"] for name in ("device", "host", "disk", "computed")]
    assert sum(sources) == cache["prompt_tokens"]
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == sum(sources[:3])
    return cache


async def one_turn(server, **body):
    conversation = await server.conversation(**body)
    await server.respond(LONG, conversation=conversation, **GREEDY)
    return conversation


async def flood(server):
    for i in range(8):
        conversation = await server.conversation()
        await server.respond(f"{i} {LONG[::-1]}", conversation=conversation, **GREEDY)


async def warm_and_cold(server, conversation):
    """The next turn's receipt, and whether a server that computes all of it says the same."""
    response = await server.respond("And then?", conversation=conversation, **GREEDY)
    return cache_of(response), response["output"][0]["content"][0]["text"]


@pytest.fixture
def kv(tmp_path):
    return {"kv_dir": str(tmp_path / "kv")}


@pytest.fixture
async def expected(serve):
    """What a server without any cache answers."""
    async with serve(**SMALL, engine={"enable_prefix_caching": False}) as server:
        return (await warm_and_cold(server, await one_turn(server)))[1]


async def test_a_conversation_that_was_pushed_out_comes_back_from_host_memory(serve, expected):
    async with serve(**SMALL, engine={"swap_space": 0.1}) as server:
        conversation = await one_turn(server)
        await server.delete(f"/v1/conversations/{conversation}/pin")  # or the floods' own would go first
        await flood(server)
        face = (await server.get(f"/v1/conversations/{conversation}/cache")).json
        assert face["host_tokens"] > 0
        assert face["device_tokens"] + face["host_tokens"] == face["tokens"] // 8 * 8, "full blocks"
        cache, text = await warm_and_cold(server, conversation)
        assert cache["host_tokens"] >= face["host_tokens"]
        assert (cache["miss_reason"], text) == ("sub_block", expected)
        metrics = (await server.get("/metrics")).body.decode()
        assert f'chatpager_prompt_tokens_total{{source="host"}} {cache["host_tokens"]:.1f}' in metrics
        tiers = (await server.get("/health")).json["tiers"]
        assert 0 < tiers["host"]["bytes"] <= tiers["host"]["capacity_bytes"] <= 0.1 * 2**30


async def test_a_conversation_is_warm_after_a_restart(serve, expected, kv):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    async with serve(**SMALL, engine=kv) as server:
        cache, text = await warm_and_cold(server, conversation)
        assert cache["disk_tokens"] > 0.8 * cache["prompt_tokens"] - 16
        assert (cache["miss_reason"], text) == ("sub_block", expected)
        disk = (await server.get("/health")).json["tiers"]["disk"]
        assert (disk["bad_files"], disk["failed_writes"]) == (0, 0)
        assert disk["bytes"] > 0
        assert disk["warm_fraction"] == 1.0
        assert re.search(
            r'^chatpager_tier_bytes\{tier="disk"\} [1-9]', (await server.get("/metrics")).body.decode(), re.M
        )


@pytest.mark.parametrize("kept", [0, 3])
async def test_what_the_disk_did_not_keep_over_a_restart_is_told(serve, kv, tmp_path, kept):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
        chain = [proof.hex() for head in await heads(server) for proof in head]
    for proof in chain[kept:]:
        (tmp_path / "kv" / proof[:2] / f"{proof}.kv").unlink()
    async with serve(**SMALL, engine=kv) as server:
        cache, _ = await warm_and_cold(server, conversation)
        assert (cache["disk_tokens"], cache["miss_reason"]) == (8 * kept, "lost")
        assert cache["attainable_tokens"] // 8 == len(chain)


async def heads(server):
    return await look(server.hub.engine, lambda engine: [list(head.proofs) for head in engine.leases.heads.values()])


async def test_a_deleted_conversation_leaves_no_block_on_the_disk(serve, kv, tmp_path):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    async with serve(**SMALL, engine=kv) as server:
        assert (await server.delete(f"/v1/conversations/{conversation}")).json["deleted"] is True
        await eventually(lambda: not list((tmp_path / "kv").glob("*/*")))


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
async def test_a_damaged_disk_costs_warmth_and_nothing_else(serve, expected, kv, tmp_path, damage):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    files = sorted((tmp_path / "kv").glob("*/*.kv"))
    assert files
    async with serve(**SMALL, engine=kv) as server:
        if damage == "deleted":
            shutil.rmtree(tmp_path / "kv")
        else:
            for file in files:
                file.write_bytes(file.read_bytes()[:-1] + b"?")
        cache, text = await warm_and_cold(server, conversation)
        assert (cache["disk_tokens"], text) == (0, expected)
        assert (await server.get("/health")).json["tiers"]["disk"]["bad_files"] == 1
        await eventually(lambda: list((tmp_path / "kv").glob("*/*.kv")))


async def test_a_fork_keeps_its_past_when_its_origin_is_deleted(serve, kv, tmp_path):
    async with serve(**SMALL, engine=kv) as server:
        origin = await one_turn(server)
        fork = (await server.post(f"/v1/conversations/{origin}/fork")).json["id"]
    async with serve(**SMALL, engine=kv) as server:
        later = (await server.post(f"/v1/conversations/{origin}/fork")).json["id"]  # of what only the disk knows
        await server.delete(f"/v1/conversations/{origin}")
    async with serve(**SMALL, engine=kv) as server:
        for conversation in (fork, later):
            assert (await server.get(f"/v1/conversations/{conversation}/cache")).json["disk_tokens"] > 0
        cache, _ = await warm_and_cold(server, fork)
        assert cache["disk_tokens"] > 0.8 * cache["prompt_tokens"] - 16


async def test_without_prefix_caching_nothing_is_kept_and_nothing_said_to_be(serve, kv, tmp_path):
    async with serve(**SMALL, engine={**kv, "enable_prefix_caching": False, "swap_space": 0.1}) as server:
        await one_turn(server)
        tiers = (await server.get("/health")).json["tiers"]
        assert tiers["disk"]["warm_fraction"] is None
        assert tiers["host"]["capacity_bytes"] == tiers["disk"]["capacity_bytes"] == 0
    assert not (tmp_path / "kv").exists()


async def test_a_conversation_is_brought_back_before_its_next_turn(serve, expected, kv):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    async with serve(**SMALL, engine=kv) as server:
        path = f"/v1/conversations/{conversation}"
        disk = (await server.get(f"{path}/cache")).json["disk_tokens"]
        bringing = asyncio.ensure_future(server.hub.prefetcher.bring("default", conversation))
        await asyncio.sleep(0)  # it is at the store
        server.hub.quotas.change(Limits(kind="tenant", name="default", paused_at=1))
        with pytest.raises(TenantPaused):
            await bringing
        server.hub.quotas.change(Limits(kind="tenant", name="default"))
        assert (await server.post(f"{path}/prefetch")).json["tokens"] == disk > 0
        assert (await server.post(f"{path}/prefetch")).json["tokens"] == 0
        face = (await server.get(f"{path}/cache")).json
        assert (face["device_tokens"], [lease["strength"] for lease in face["leases"]]) == (disk, ["soft"])
        cache, text = await warm_and_cold(server, conversation)
        assert (cache["device_tokens"], cache["disk_tokens"], text) == (disk, 0, expected)


async def add_items(server, conversation):
    item = {"role": "user", "content": "It is 21 degrees."}
    answer = await server.post(f"/v1/conversations/{conversation}/items", {"items": [item]})
    assert [i["content"][0]["text"] for i in answer.json["data"]] == ["It is 21 degrees."]


async def connect(server, conversation):
    async with server.socket(query=f"?conversation={conversation}"):
        pass


async def send_a_frame(server, conversation):
    async with server.socket(extended=True) as socket:
        await socket.send(type="chatpager.prefetch", conversation=conversation)
        await socket.send(type="chatpager.ping", t=1)
        assert (await socket.receive())["type"] == "chatpager.pong", "nothing else is told"


SIGNS = [add_items, connect, send_a_frame]


@pytest.mark.parametrize("sign", SIGNS)
async def test_a_sign_that_somebody_goes_on_brings_it_back(serve, kv, sign):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    async with serve(**SMALL, engine=kv) as server:
        path = f"/v1/conversations/{conversation}/cache"
        disk = (await server.get(path)).json["disk_tokens"]
        await sign(server, conversation)
        await eventually(lambda: not server.hub.prefetcher.running)
        assert (await server.get(path)).json["device_tokens"] == disk > 0


async def test_a_sign_for_what_is_not_there_is_no_mistake(server, caplog):
    async with server.socket(extended=True) as socket:
        for missing in ("conv_none", ""):
            await socket.send(type="chatpager.prefetch", conversation=missing)
            error = await socket.receive()
            assert (error["type"], error["about"], error["status"]) == ("error", "chatpager.prefetch", 404)
            assert (error["error"]["code"], error["error"]["param"]) == ("conversation_not_found", "conversation")
    async with server.socket(extended=True) as socket:
        for _ in range(2):
            await socket.send(type="chatpager.prefetch", conversation="conv_none")
        assert [(await socket.receive())["about"] for _ in range(2)] == ["chatpager.prefetch"] * 2, "each is told"
    await eventually(lambda: not server.hub.prefetcher.running)
    assert not caplog.records


async def test_who_adds_items_does_not_wait_for_the_engine(serve):
    async with serve(**SMALL) as server:
        conversation = await one_turn(server)
        server.gate.hold()
        running = asyncio.ensure_future(server.respond("Hold"))
        await server.held()
        await add_items(server, conversation)
        assert len(server.hub.prefetcher.running) == 1
        await add_items(server, conversation)
        assert len(server.hub.prefetcher.running) == 1
        server.gate.open()
        await running


async def test_what_is_brought_back_begins_with_the_last_turns_instructions(serve, kv):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await server.conversation()
        await server.respond(LONG, conversation=conversation, instructions="Be brief, and kind.")
    async with serve(**SMALL, engine=kv) as server:
        path = f"/v1/conversations/{conversation}"
        disk = (await server.get(f"{path}/cache")).json["disk_tokens"]
        assert (await server.post(f"{path}/prefetch")).json["tokens"] == disk > 0


async def test_a_pin_brings_back_what_it_pins(serve, kv):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    async with serve(**SMALL, engine=kv) as server:
        path = f"/v1/conversations/{conversation}"
        disk = (await server.get(f"{path}/cache")).json["disk_tokens"]
        assert (await server.call("PUT", f"{path}/pin")).json["tokens"] == disk


async def test_nothing_is_brought_back_where_there_is_no_room(serve, kv):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
        empty = await server.conversation()
    async with serve(**SMALL, engine=kv) as server:
        assert (await server.post(f"/v1/conversations/{empty}/prefetch")).json["tokens"] == 0
        missing = await server.post("/v1/conversations/conv_none/prefetch")
        assert missing.refusal == (404, "conversation_not_found", None)
        for i in range(8):  # the device is full
            await server.respond(f"{i} {LONG[::-1]}", **GREEDY)
        path = f"/v1/conversations/{conversation}"
        assert (await server.post(f"{path}/prefetch")).json["tokens"] == 0
        refused = await server.call("PUT", f"{path}/pin")
        assert "on disk" in refused.json["error"]["message"]


async def test_a_conversation_that_no_longer_fits_is_not_brought_back_and_harms_nobody(serve, kv):
    async with serve(**SMALL, engine=kv) as server:
        conversation = await one_turn(server)
    async with serve(blocks=10, length=8, engine=kv) as server:
        path = f"/v1/conversations/{conversation}"
        assert (await server.post(f"{path}/prefetch")).json["tokens"] == 0
        refused = await server.call("PUT", f"{path}/pin")
        assert refused.refusal == (409, "nothing_cached", None)


async def disk_bytes(server):
    await look(server.hub.engine, lambda engine: (engine.tiers.work(idle=True), engine.tiers.disk.flush()))
    return (await server.get("/health")).json["tiers"]["disk"]["bytes"]


async def test_the_same_asked_and_answered_twice_leaves_nothing_when_both_are_deleted(serve, kv):
    async with serve(engine=kv) as server:
        answers = [await server.respond(LONG, **GREEDY) for _ in range(2)]
        assert await disk_bytes(server) > 0
        await server.delete(f"/v1/responses/{answers[0]['id']}")
        assert await disk_bytes(server) > 0, "the other one is still there"
        await server.delete(f"/v1/responses/{answers[1]['id']}")
        assert await disk_bytes(server) == 0


async def test_after_a_restart_too_the_deletion_of_an_early_response_leaves_the_conversation_its_prefix(serve, kv):
    async with serve(engine=kv) as server:
        first = await server.respond(LONG, **GREEDY)
        second = await server.respond("And then?", previous_response_id=first["id"], **GREEDY)
        before = await disk_bytes(server)
    async with serve(engine=kv) as server:
        await server.delete(f"/v1/responses/{first['id']}")
        assert await disk_bytes(server) == before > 0
        third = await server.respond("And now?", previous_response_id=second["id"], **GREEDY)
        assert cache_of(third)["disk_tokens"] > 0
    async with serve(engine=kv) as server:
        assert await disk_bytes(server) > before, "its name is that of a turn that was deleted"
        await server.delete(f"/v1/responses/{third['id']}")
        assert await disk_bytes(server) == 0, "its end goes, and with it its head"


async def test_what_was_deleted_while_nobody_had_the_disk_goes_at_the_next_start(serve, kv, tmp_path):
    """As where a server is killed behind a deletion's commit; what a killed one left of blocks alone goes too."""
    async with serve(engine=kv) as server:
        doomed, kept = [await one_turn(server) for _ in range(2)]
        alone, other = [await server.respond(text, **GREEDY) for text in (LONG, LONG[::-1])]
        last = await server.respond("And then?", previous_response_id=alone["id"], **GREEDY)
        await server.post("/v1/prefixes", {"label": "head", "instructions": LONG})
        before = await disk_bytes(server)
    async with serve(engine={**kv, "disk_space": 0}) as server:
        await server.delete(f"/v1/conversations/{doomed}")
        for response in (alone, last, other):
            await server.delete(f"/v1/responses/{response['id']}")
    stray = tmp_path / "kv" / "ab" / ("ab" * 32 + ".kv")
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"?")
    async with serve(engine=kv) as server:
        assert 0 < await disk_bytes(server) < before
        assert len(list((tmp_path / "kv" / "heads").iterdir())) == 2, "the conversation's and the prefix's"
        assert not stray.exists()
        assert (await warm_and_cold(server, kept))[0]["disk_tokens"] > 0


async def test_instructions_that_changed_over_a_restart_are_told_as_such(serve):
    brief, long = "Be brief. " * 6, "Talk long. " * 6
    more = {**GREEDY, "instructions": long}
    async with serve() as server:
        first = await server.respond(LONG, **{**more, "instructions": brief})
        here = cache_of(await server.respond("And then?", previous_response_id=first["id"], **more))
    async with serve() as server:
        there = cache_of(await server.respond("And then?", previous_response_id=first["id"], **more))
    for name in ("diverged_at", "miss_reason", "attainable_tokens"):
        assert there[name] == here[name]
    assert here["miss_reason"] == "diverged"
