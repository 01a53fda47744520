"""The admin API: its figures are those of the receipts and of /metrics, and only who may look sees them."""

import asyncio
import re
import time

import msgspec
import pytest

from chatpager.engine.histogram import Histogram
from chatpager.server import wire_admin
from chatpager.server.admin_snapshot import of_distribution, of_samples
from chatpager.server.keyring import KEYRING
from chatpager.server.routes_admin import LOOKING
from chatpager.store import new_key
from tests.serving import DEADLINE, GREEDY, eventually

FOX = "The quick brown fox jumps over the lazy dog. " * 3


async def snapshot(server, **more):
    answer = await server.get("/v1/admin/snapshot", **more)
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=wire_admin.Snapshot)


async def metrics(server):
    text = (await server.get("/metrics")).body.decode()
    return {name: float(value) for name, value in re.findall(r"^(chatpager_\S+) (\S+)$", text, re.M)}


async def three_turns(server):
    """Two of one conversation and another's; their receipts."""
    first, other = await server.conversation(), await server.conversation()
    return [
        (await server.respond(said, conversation=where))["chatpager"]["cache"]
        for said, where in ((FOX, first), ("And then?", first), ("Something else entirely", other))
    ]


def sums(receipts, name):
    return sum(receipt[name] for receipt in receipts)


async def test_what_is_told_equals_the_receipts_and_the_metrics(server):
    receipts = await three_turns(server)
    told, counted = await snapshot(server), await metrics(server)
    assert [window.seconds for window in told.windows] == [0, 60, 900, 86_400]
    for window in told.windows:
        assert (window.turns, window.failed) == (3, 0)
        for name in ("prompt", "device", "host", "disk", "computed", "attainable"):
            assert getattr(window, f"{name}_tokens") == sums(receipts, f"{name}_tokens"), name
        for source in ("device", "host", "disk", "computed"):
            assert getattr(window, f"{source}_tokens") == counted[f'chatpager_prompt_tokens_total{{source="{source}"}}']
        assert window.attainable_tokens == counted["chatpager_attainable_tokens_total"] > 0
        assert window.generated_tokens == counted["chatpager_generated_tokens_total"] == 24
        assert 0 < window.hit_tokens <= window.attainable_tokens
        assert window.saved_seconds > 0
    engine = told.engine
    for name in ("queried", "hit"):
        assert getattr(engine, f"{name}_tokens") == counted[f"chatpager_prefix_cache_{name}_tokens_total"]
    assert engine.hit_tokens == told.windows[0].hit_tokens
    for state in ("free", "cached", "leased", "pinned", "active"):
        assert getattr(engine.blocks, state) == counted[f'chatpager_kv_blocks{{state="{state}"}}']
    assert engine.preemptions == sum(
        counted[f'chatpager_preemptions_total{{mode="{m}"}}'] for m in ("swap", "recompute")
    )
    for kind, count in engine.evicted_blocks.items():
        assert count == counted[f'chatpager_evicted_blocks_total{{class="{kind}"}}']
    for warmth, quantiles in (("warm", told.first_token_warm), ("cold", told.first_token_cold)):
        assert quantiles.count == counted.get(f'chatpager_ttft_seconds_count{{cache="{warmth}"}}', 0)
    assert engine.between_tokens.count == counted["chatpager_itl_seconds_count"]
    assert sum(told.misses.values()) == sum(
        v for name, v in counted.items() if name.startswith("chatpager_miss_turns_total")
    )


async def test_history_holds_every_turn_once(server):
    receipts = await three_turns(server)
    for seconds, step in ((60, 1), (900, 10), (86_400, 60)):
        answer = await server.get(f"/v1/admin/history?seconds={seconds}")
        told = msgspec.json.decode(answer.body, type=wire_admin.History)
        assert (told.seconds, told.step) == (seconds, step)
        assert sum(point.turns for point in told.points) == 3
        assert sum(point.attainable_tokens for point in told.points) == sums(receipts, "attainable_tokens")
        assert sum(point.computed_tokens for point in told.points) == sums(receipts, "computed_tokens")
        assert all(point.at % (1000 * step) == 0 for point in told.points)
    for wrong in ("59", "86401", "x", "-1", "1" * 30, ""):
        assert (await server.get(f"/v1/admin/history?seconds={wrong}")).refusal == (400, "invalid_request", "seconds")


async def test_live_requests_are_shown_with_their_progress(server):
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create(FOX)
        turn = await server.live_turn()
        await server.held()
        told = await snapshot(server)
        [request] = told.requests
        assert (told.live, told.engine_state, told.engine) == (1, "busy", None)
        assert (request.id, request.state, request.tenant) == (turn.id, "queued", "default")
        assert request.prompt_tokens == len(turn.prompt) and request.output_tokens == 0
        assert request.max_tokens == GREEDY["max_output_tokens"]
        assert told.sockets == 1
        server.gate.open()
        await socket.rest()
    await eventually(lambda: not server.hub.turns)
    server.app[LOOKING].last = None
    told = await snapshot(server)
    assert (told.live, told.requests, told.engine_state) == (0, [], "ok")


async def test_the_stream_tells_every_second_and_shows_what_happened_meanwhile(server):
    server.service.look_seconds = 0.01
    async with server.http.get(server.url + "/v1/admin/live") as stream:
        assert stream.content_type == "text/event-stream"
        turns = told_turns(stream)
        assert await anext(turns) == 0
        await server.respond("Hello")
        async with asyncio.timeout(DEADLINE):
            while not (count := await anext(turns)):
                pass
        assert count == 1


async def test_the_stream_ends_with_the_key_that_opened_it(serve):
    async with serve(api_key="secret") as server:
        row, key = new_key("ops", "", "read-only", 1)
        await server.service.store.keys.create(row)
        server.service.look_seconds = 0.01
        async with server.http.get(server.url + "/v1/admin/live", headers={"Authorization": f"Bearer {key}"}) as stream:
            turns = told_turns(stream)
            assert await anext(turns) == 0
            await server.service.store.keys.revoke(row.id, now=2)
            server.app[KEYRING].clock = lambda: time.monotonic() + 60  # no key is believed for longer
            async with asyncio.timeout(DEADLINE):
                rest = [line async for line in stream.content]
        assert b"event: error\n" in rest and b"invalid_api_key" in rest[-2] + rest[-1]


async def told_turns(stream):
    async for line in stream.content:
        if line.startswith(b"data: "):
            yield msgspec.json.decode(line[6:], type=wire_admin.Snapshot).windows[0].turns


def test_quantiles_of_samples_are_samples():
    assert of_samples([]).p50 is None
    told = of_samples(n / 100 for n in range(100, 0, -1))
    assert (told.count, told.p50, told.p95, told.p99) == (100, 0.5, 0.95, 0.99)
    assert (of_samples([3.0]).p50, of_samples([3.0]).p99) == (3.0, 3.0)


@pytest.mark.parametrize(("seconds", "between"), [(0.003, (1 / 512, 1 / 256)), (1.0, (0.5, 1.0))])
def test_quantiles_of_a_histogram_are_in_the_bucket(seconds, between):
    counted = Histogram(-10, 6)
    assert of_distribution(counted.distribution()).p50 is None
    counted.add(seconds, 7)
    told = of_distribution(counted.distribution())
    assert told.count == 7 and between[0] < told.p50 <= told.p95 <= told.p99 <= between[1]


def test_a_quantile_beyond_the_last_bound_is_that_bound():
    counted = Histogram(-10, 6)
    counted.add(1000.0)
    assert of_distribution(counted.distribution()).p99 == 64.0


async def test_whose_key_may_only_look_sees_figures_and_nothing_else(serve):
    async with serve(api_key="secret") as server:
        row, key = new_key("ops", "", "read-only", 1)
        await server.service.store.keys.create(row)
        ann, anns = new_key("ann", "", "user", 1)
        await server.service.store.keys.create(ann)
        bearer = {"Authorization": f"Bearer {key}"}
        assert (await snapshot(server, headers=bearer)).status == "ok"
        assert (await server.get("/v1/admin/history", headers=bearer)).status == 200
        assert (await server.get("/v1/admin/snapshot", headers={"Authorization": f"Bearer {anns}"})).status == 403
        assert (await server.get("/v1/admin/snapshot")).status == 401
        for method, path in (
            ("GET", "/v1/conversations"),
            ("POST", "/v1/responses"),
            ("GET", "/metrics"),
            ("GET", "/v1/models"),
        ):
            assert (await server.call(method, path, headers=bearer)).refusal[:2] == (403, "forbidden"), path


async def test_the_page_is_at_admin(server):
    assert (await server.get("/admin")).status == 200
