"""What the engine counts, as Prometheus reads it: each figure moves by as much as happened, and no other does."""

import asyncio
import re
import time

import msgspec
import pytest

from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.heads import Strength
from chatpager.engine.host_tier import HostTier
from chatpager.engine.messages import LeaseRequest
from chatpager.engine.tiers import Tiers
from chatpager.server.metrics import Metrics
from chatpager.sessions.engine_host import ReplicaState
from tests.engine.fakes import answer, make_engine, request, run, step
from tests.engine.tiering import LONG, flood
from tests.serving import GREEDY

LATER = 100.0
SOFT, HARD = Strength.SOFT, Strength.HARD


def exposed(text):
    return {name: float(value) for name, value in re.findall(r"^chatpager_(\S+) (\S+)$", text.decode(), re.M)}


def figures(engine):
    return exposed(Metrics().render({"r0": engine.stats()}))


def moved(engine, before):
    """What is not as it was, by how much; histograms by their counts and sums."""
    after = figures(engine)
    return {name: after[name] - before.get(name, 0.0) for name in after if after[name] != before.get(name, 0.0)}


def turn(engine, name, prompt, count=1, now=0.0, **more):
    engine.add(request(name, prompt, count, **more), now)
    run(engine, now=now)


def lease(engine, owner, strength, ttl=60.0, now=0.0):
    engine.lease(LeaseRequest(owner=owner, strength=strength, ttl=ttl), now)
    engine.audit()


def test_a_block_s_ages_count_from_its_last_use():
    engine = make_engine(num_blocks=33)
    turn(engine, "first", LONG, owner="s")
    before = figures(engine)
    turn(engine, "again", LONG, owner="s", now=LATER)
    found = moved(engine, before)
    assert (found["reuse_gap_seconds_count"], found["reuse_gap_seconds_sum"]) == (9, 9 * LATER)
    assert 'reuse_gap_seconds_bucket{le="64.0"}' not in found
    assert found['reuse_gap_seconds_bucket{le="128.0"}'] == found['reuse_gap_seconds_bucket{le="+Inf"}'] == 9
    assert "evict_age_seconds_count" not in found
    before = figures(engine)
    turn(engine, "other", range(300, 360), owner="o", now=3 * LATER)
    turn(engine, "more", range(400, 460), owner="m", now=3 * LATER)
    found = moved(engine, before)
    idle = found['evicted_blocks_total{class="idle"}']
    assert idle == figures(engine)["evict_age_seconds_count"] == 8
    assert found["evict_age_seconds_sum"] == idle * 2 * LATER
    before = figures(engine)
    turn(engine, "nobody's", range(500, 540), now=3 * LATER)
    turn(engine, "nor this", range(600, 640), now=3 * LATER)
    assert moved(engine, before)['evicted_blocks_total{class="dead"}'] == 10


def test_what_comes_from_below_was_not_reused_on_the_device():
    ticks = iter(range(10_000))
    engine = make_engine(num_blocks=20)
    engine.cache.tiers = engine.tiers = Tiers(engine.runner, host=HostTier(64), clock=lambda: next(ticks) / 64)
    answer(engine, "first", LONG, owner="s")
    flood(engine)
    before = figures(engine)
    usage = answer(engine, "again", LONG, owner="s").usage
    found = moved(engine, before)
    blocks = usage.host_tokens // 4
    assert found['tier_load_seconds_count{tier="host"}'] == blocks == 9
    assert found['tier_load_seconds_sum{tier="host"}'] == pytest.approx(1 / 64), "one copy for all"
    assert 'tier_load_seconds_count{tier="disk"}' not in found
    assert "reuse_gap_seconds_count" not in found
    assert figures(engine)['tier_bytes{tier="host"}'] == len(engine.tiers.host) * engine.runner.block_bytes


def test_files_count_as_they_are_read(tmp_path):
    first = make_engine(disk=DiskTier(tmp_path, 1 << 20))
    answer(first, "first", LONG, owner="s")
    first.close()
    ticks = iter(range(10_000))
    engine = make_engine()
    engine.cache.tiers = engine.tiers = Tiers(
        engine.runner, disk=DiskTier(tmp_path, 1 << 20), clock=lambda: next(ticks) / 1024
    )
    before = figures(engine)
    assert answer(engine, "again", LONG, owner="s").usage.disk_tokens == 36
    found = moved(engine, before)
    assert found['tier_load_seconds_count{tier="disk"}'] == 9
    assert found['tier_load_seconds_sum{tier="disk"}'] == pytest.approx(9 / 1024)
    assert 'tier_load_seconds_count{tier="host"}' not in found
    engine.close()


def test_between_two_tokens_passes_what_passes_between_two_steps():
    engine = make_engine()
    engine.add(request("one", [1, 2], 4), 0.0)
    before = figures(engine)
    for now in (1.0, 1.5, 2.5, 3.0):
        step(engine, now=now)
    found = moved(engine, before)
    assert (found["itl_seconds_count"], found["itl_seconds_sum"]) == (3, 2.0)
    assert found['itl_seconds_bucket{le="0.5"}'] == 2


def test_every_block_is_in_one_state():
    engine = make_engine(num_blocks=60)
    for name in ("soft", "hard", "both", "none"):
        turn(engine, name, [ord(name[0]), *LONG], owner=name)
    for owner, strengths in {"soft": "s", "hard": "h", "both": "sh"}.items():
        for strength in strengths:
            lease(engine, owner, {"s": SOFT, "h": HARD}[strength])
    states = {"cached": 11, "leased": 11, "pinned": 22, "active": 0, "free": 15}
    assert {name: figures(engine)[f'kv_blocks{{state="{name}"}}'] for name in states} == states
    assert figures(engine)['leased_blocks{strength="soft"}'] == 22
    assert figures(engine)['leased_blocks{strength="hard"}'] == 22
    engine.add(request("soft-again", [ord("s"), *LONG], 8, owner="soft"), 0.0)
    step(engine)
    states |= {"leased": 1, "active": 11, "free": 14}  # the tail was copied
    assert {name: figures(engine)[f'kv_blocks{{state="{name}"}}'] for name in states} == states
    assert figures(engine)['leased_blocks{strength="soft"}'] == 22


def test_what_becomes_of_leases():
    engine = make_engine(num_blocks=33)
    turn(engine, "one", LONG, owner="s")
    before = figures(engine)
    lease(engine, "s", SOFT)
    lease(engine, "s", SOFT)
    lease(engine, "s", HARD, ttl=5.0)
    engine.leases.tick(6.0)
    engine.leases.release("s")
    found = moved(engine, before)
    kinds = {name.split('"')[1]: count for name, count in found.items() if name.startswith("lease_events_total")}
    assert kinds == {"granted": 2, "renewed": 1, "expired": 1, "released": 1}


@pytest.mark.parametrize(("host_blocks", "mode"), [(64, "swap"), (0, "recompute")])
def test_preemptions_by_what_becomes_of_the_blocks(host_blocks, mode):
    engine = make_engine(num_blocks=17, host_blocks=host_blocks)
    for name in "abc":
        engine.add(request(name, [ord(name)] * 20, 30), 0.0)
    before = figures(engine)
    run(engine)
    found = moved(engine, before)
    assert found[f'preemptions_total{{mode="{mode}"}}'] == engine.scheduler.stats.preemptions > 0
    assert sum(name.startswith("preemptions_total") for name in found) == 1
    again = found['recomputed_tokens_total{cause="preemption"}']
    assert again == engine.scheduler.stats.recomputed_tokens > 0


def test_a_step_that_raised_is_computed_again():
    engine = make_engine()
    for name in "ab":
        engine.add(request(name, [ord(name)] * 3, 1), 0.0)
    before = figures(engine)
    engine.runner.raise_once = "after"
    run(engine)
    found = moved(engine, before)
    assert found['recomputed_tokens_total{cause="failed_step"}'] == 6
    assert found["failed_steps_total"] == 1
    assert 'recomputed_tokens_total{cause="preemption"}' not in found


def test_what_a_block_takes_and_the_tier_that_was_passed_over_for_it():
    engine = make_engine(num_blocks=20, host_blocks=64)
    answer(engine, "first", LONG, owner="s")
    flood(engine)
    engine.tiers.times.copy_back.add(10.0)  # 2 s on average: nothing was measured but the start
    before = figures(engine)
    assert before['block_seconds{way="copy_back"}'] == 2.0
    answer(engine, "again", LONG, owner="s")
    found = moved(engine, before)
    assert found['tier_passed_over_total{tier="host"}'] == 1
    assert found['block_seconds{way="copy_back"}'] == pytest.approx(-0.02 * 2.0)


def test_what_more_memory_would_have_found():
    engine = make_engine(num_blocks=17, max_model_len=32)
    turn(engine, "first", LONG[:16], owner="s")
    for i in range(5):
        turn(engine, f"f{i}", range(300 + 20 * i, 316 + 20 * i), owner=f"f{i}")
    before = figures(engine)
    turn(engine, "again", LONG[:16], owner="s")
    lost = moved(engine, before)
    assert lost["lost_hit_tokens_total"] == lost["prefix_cache_double_hit_tokens_total"] > 0
    assert "prefix_cache_hit_tokens_total" not in lost
    for i in range(12):
        turn(engine, f"g{i}", range(500 + 20 * i, 516 + 20 * i), owner=f"g{i}")
    before = figures(engine)
    turn(engine, "third", LONG[:16], owner="s")
    lost = moved(engine, before)
    assert lost["lost_hit_tokens_total"] > 0
    assert "prefix_cache_double_hit_tokens_total" not in lost, "nor would twice the memory have kept it"


def test_what_each_replica_does_can_be_alerted_on():
    engine, metrics = make_engine(), Metrics()
    first = ReplicaState(id="r0", alive=True, restarting=False, restarts=3)
    hangs = ReplicaState(id="r1", alive=True, restarting=False, draining=True, restarts=0)
    text = metrics.render({"r0": engine.stats()}, None, [first, hangs]).decode()
    for line in (
        'up{replica="r0"} 1.0',
        'up{replica="r1"} 0.0',
        'draining{replica="r1"} 1.0',
        'restarts_total{replica="r0"} 3.0',
    ):
        assert f"chatpager_replica_{line}" in text
    dead = msgspec.structs.replace(first, alive=False)
    assert 'chatpager_replica_up{replica="r0"} 0.0' in metrics.render({"r0": engine.stats()}, None, [dead]).decode()


def test_of_several_engines_each_has_its_own_figures():
    engines = {name: make_engine() for name in ("r0", "r1")}
    for name, engine in engines.items():
        turn(engine, name, range(10 if name == "r0" else 20))
    text = Metrics().render({name: engine.stats() for name, engine in engines.items()}).decode()
    for name, count in (("r0", 10), ("r1", 20)):
        assert f'chatpager_prefix_cache_queried_tokens_total{{replica="{name}"}} {count}.0' in text
        assert f'chatpager_requests{{replica="{name}",state="running"}} 0.0' in text
        assert f'chatpager_itl_seconds_bucket{{le="+Inf",replica="{name}"}}' in text
    assert text.count("# TYPE chatpager_requests gauge") == 1


async def test_turns_wait_in_their_lane(serve):
    async with serve(step=64) as server:
        await server.respond("Hello", **GREEDY)
        await server.respond("word " * 40, **GREEDY)
        got = exposed((await server.get("/metrics")).body)
        assert got['queue_seconds_count{lane="short"}'] == got['queue_seconds_count{lane="long"}'] == 1


async def test_readers_that_come_back(server):
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create("Hello", **GREEDY)
        created = await socket.receive()
        path = f"/v1/responses/{created['response']['id']}?stream=true"
        again = asyncio.ensure_future(server.get(path))
        await server.held()
        server.gate.open()
        await socket.rest()
        assert (await again).status == 200
    server.hub._recent.forget(created["response"]["id"])
    assert (await server.get(path)).status == 410
    assert (await server.get("/v1/responses/resp_none?stream=true")).status == 404
    got = exposed((await server.get("/metrics")).body)
    assert (got['resumes_total{recovered="true"}'], got['resumes_total{recovered="false"}']) == (1, 1)


def test_the_event_loop_s_lag_is_what_it_comes_too_late():
    metrics = Metrics()
    metrics.loop_was_late(0.75)
    got = exposed(metrics.render({}))
    assert got["event_loop_lag_seconds_count"] == 1
    assert got["event_loop_lag_seconds_sum"] == pytest.approx(0.75)


async def test_what_is_given_to_sockets_counts_once_it_is_written(monkeypatch):
    metrics = Metrics()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for ago in (0.25, 0.25, 0.5):
        metrics.sending(now - ago)
    assert exposed(metrics.render({}))["step_to_socket_seconds_count"] == 0
    now += 1
    await asyncio.sleep(0)
    got = exposed(metrics.render({}))
    assert got["step_to_socket_seconds_count"] == 3
    assert got["step_to_socket_seconds_sum"] == pytest.approx(4.0)


async def test_no_name_of_a_conversation_is_a_label(server):
    first = await server.respond("The quick brown fox", conversation=await server.conversation(), **GREEDY)
    text = (await server.get("/metrics")).body.decode()
    for name in (first["id"], first["conversation"]["id"], "default"):
        assert name not in text
