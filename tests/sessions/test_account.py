"""What is told of a turn's tokens is what the engine did, however the turn ends."""

import asyncio
import time

import pytest

from chatpager.engine.sequence import SamplingParams
from chatpager.errors import StoreError
from chatpager.server.metrics import Metrics
from chatpager.sessions.stream import Prefilled
from tests.gate import DEADLINE
from tests.serving_client import eventually
from tests.sessions.conftest import TENANT

BLOCK = 4


def told(turn, ended):
    """(cached, computed, written to the cache) as receipt and usage say, which must agree."""
    usage, receipt = turn.stored_usage(ended), ended.receipt
    assert usage["cached_tokens"] == receipt.device_tokens
    assert (usage["input_tokens"], usage["output_tokens"]) == (len(turn.prompt), len(turn.token_ids))
    assert usage["cache_write_tokens"] == ended.cache_write_tokens
    return receipt.device_tokens, receipt.computed_tokens, ended.cache_write_tokens


def sums_up(turn, ended):
    r = ended.receipt
    return r.device_tokens + r.host_tokens + r.disk_tokens + r.computed_tokens == r.prompt_tokens == len(turn.prompt)


def hold_the_loop_until(condition):
    """Nobody on the event loop hears of anything meanwhile."""
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.001)


async def cancelled(r, text, *, steps, **more):
    """A turn that is cancelled while step ``steps`` runs."""
    gate = r.hold(after=steps - 1)
    turn = await r.hub.submit(r.request(text, **more))
    await eventually(lambda: gate.waited_for)
    r.hub.cancel(TENANT, turn.id)
    gate.open()
    return turn, await turn.stream.end()


async def interrupted(r, text, *, steps, **more):
    """A turn that the server's end cuts off while step ``steps`` runs."""
    gate = r.hold(after=steps - 1)
    turn = await r.hub.submit(r.request(text, **more))
    await eventually(lambda: gate.waited_for)
    closing = asyncio.ensure_future(r.hub.close())
    await eventually(lambda: not r.hub.engine._commands.empty())
    gate.open()
    await closing
    return turn, turn.stream.ended


async def test_a_turn_cancelled_in_its_prompt_tells_what_was_computed(rig):
    metrics = Metrics()
    async with rig(step=16, on_end=metrics.turn_ended) as r:
        session = await r.session()
        turn, ended = await cancelled(r, "word " * 100, steps=3, session=session)
        assert (ended.status, len(turn.prompt) > 300) == ("cancelled", True)
        assert told(turn, ended) == (0, 48, 48)
        assert r.engine.pool.counts()["cached"] == 48 // BLOCK
        assert list(turn.computed_ids()) == list(turn.prompt[:48])
        assert b'chatpager_prompt_tokens_total{source="computed"} 48.0' in metrics.render({})
        _, after = await r.ask("and more", session=session)
        assert (after.receipt.device_tokens, after.receipt.attainable_tokens) == (48, 48)
        assert after.receipt.miss_reason == "cold", "nothing was evicted: there was no more"


async def test_a_turn_cancelled_in_a_prompt_that_was_cached_in_part(rig):
    async with rig(lambda prompt: "yes", step=16) as r:
        session = await r.session()
        first, _ = await r.ask("hello there my friend", session=session)
        cached = len(first.computed_ids())
        turn, ended = await cancelled(r, "word " * 100, steps=1, session=session)
        assert told(turn, ended) == (cached, 16, 16)
        assert list(turn.computed_ids()) == list(turn.prompt[: cached + 16])


async def test_a_turn_cancelled_before_its_first_step_computed_nothing(rig):
    async with rig(step=16) as r:
        gate = r.hold()
        running = await r.hub.submit(r.request("b"))
        await eventually(lambda: gate.waited_for)
        turn = await r.hub.submit(r.request("c"))
        r.hub.cancel(TENANT, turn.id)
        gate.open()
        ended = await turn.stream.end()
        await running.stream.end()
        assert (ended.status, ended.receipt, ended.cache_write_tokens) == ("cancelled", None, 0)
        assert list(turn.computed_ids()) == []


async def test_a_turn_that_was_cut_off_tells_what_came_from_the_cache(rig):
    async with rig(lambda prompt: "yes yes yes yes yes") as r:
        session = await r.session()
        first, _ = await r.ask("hello there my friend", session=session)
        cached = len(first.computed_ids())
        turn, ended = await interrupted(r, "and again", steps=4, session=session)
        assert (ended.status, len(turn.token_ids)) == ("interrupted", 4)
        written = len(turn.prompt) + 3
        assert told(turn, ended) == (cached, len(turn.prompt) - cached, written - cached)
        assert sums_up(turn, ended)
        assert ended.timings.prefill_ms > 0
        stored = await r.hub.store.turn(TENANT, turn.id)
        assert stored.usage["cached_tokens"] == stored.receipt["device_tokens"] == cached


async def test_a_turn_that_was_cut_off_in_its_prompt(rig):
    async with rig(lambda prompt: "yes", step=16) as r:
        session = await r.session()
        first, _ = await r.ask("hello there my friend", session=session)
        cached = len(first.computed_ids())
        turn, ended = await interrupted(r, "word " * 100, steps=2, session=session)
        assert ended.status == "interrupted"
        assert told(turn, ended) == (cached, 32, 32)
        last = [e for e in turn.stream.events if isinstance(e, Prefilled)][-1]
        assert (last.done, last.cached) == (cached + 32, cached)


async def test_a_turn_that_the_hub_fails_tells_what_came_from_the_cache(rig, monkeypatch):
    async with rig(lambda prompt: "yes") as r:
        session = await r.session()
        first, _ = await r.ask("hello there my friend", session=session)

        async def broken(entries):
            raise StoreError("the disk is full")

        monkeypatch.setattr(r.hub.store, "journal", broken)
        gate = r.hold(after=1)
        turn = await r.hub.submit(r.request("and again", session=session))
        ended = await turn.stream.end()
        gate.open()
        assert (ended.status, ended.error_code) == ("failed", "storage_unavailable")
        assert told(turn, ended)[0] == len(first.computed_ids())
        assert sums_up(turn, ended)


async def test_a_turn_that_a_mistake_ends_keeps_its_receipt(rig):
    def body(turn, ended):
        raise ValueError("a wire's mistake")

    async with rig() as r:
        turn, ended = await r.ask("a", body=body)
        assert (ended.status, ended.error_code) == ("failed", "internal_error")
        assert sums_up(turn, ended)
        assert (await r.hub.store.turn(TENANT, turn.id)).receipt["computed_tokens"] == len(turn.prompt)


async def test_a_turn_whose_first_step_fails_computed_nothing(rig):
    async with rig() as r:
        first, _ = await r.ask("hello there my friend")
        bad = r.request("and more", previous=first.id)
        r.runner.raise_for = {bad.id}
        turn = await r.hub.submit(bad)
        ended = await turn.stream.end()
        assert ended.error_code == "engine_step_failed"
        assert told(turn, ended) == (len(first.computed_ids()), 0, 0)


@pytest.mark.parametrize("text", ["a", "long " * 30])
async def test_without_a_cache_nothing_is_written_to_it(rig, text):
    async with rig(lambda prompt: "an answer of some length", step=16, caching=False) as r:
        session = await r.session()
        for _ in range(2):
            turn, ended = await r.ask(text, session=session)
            assert told(turn, ended) == (0, len(turn.prompt), 0)
            assert ended.receipt.miss_reason == "disabled"
        assert r.engine.pool.counts()["cached"] == 0


async def test_what_was_computed_past_a_stop_string_was_written(rig):
    """The engine goes on until it hears of it; the ids of the answer end before."""
    async with rig(lambda prompt: "one two three four five six seven eight nine ten") as r:
        gate = r.hold()
        params = SamplingParams(temperature=0.0, max_tokens=40, stop="two")
        turn = await r.hub.submit(r.request("a", params=params))
        gate.hold(after=12)
        hold_the_loop_until(lambda: gate.waited_for)
        await eventually(lambda: not r.hub.engine._commands.empty())
        gate.open()
        ended = await turn.stream.end()
        assert (ended.status, ended.text) == ("completed", "one ")
        assert len(turn.token_ids) < 12
        written = (len(turn.prompt) + 12) // BLOCK * BLOCK
        assert told(turn, ended) == (0, len(turn.prompt), written)
        assert r.engine.pool.counts()["cached"] == written // BLOCK
