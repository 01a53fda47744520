"""An engine that dies is made again, in the same process and with the same model, but not for ever."""

import asyncio
import gc
import threading
import weakref
from contextlib import suppress

import pytest

from chatpager.errors import EngineStopped
from chatpager.sessions.heads import owner_of
from chatpager.sessions.restarts import Breaker
from tests.gate import DEADLINE
from tests.looking import look
from tests.serving_client import eventually


def test_the_breaker_allows_so_many_in_so_long():
    breaker = Breaker(2, 60.0)
    assert [breaker.allows(now) for now in (0.0, 10.0, 20.0, 59.9, 60.0, 61.0, 70.0)] == [
        *(True, True, False, False),
        *(True, False, True),
    ]


async def wound(r):
    """The engine of the moment dies at its next step; it is between two of them now."""
    await look(r.hub.engine, lambda engine: setattr(engine.scheduler, "schedule", None))


async def die(r):
    """With a turn, unless it takes a step before that comes."""
    await wound(r)
    with suppress(EngineStopped):
        await r.ask("a")


async def test_what_runs_fails_and_what_comes_is_answered_by_another(rig):
    async with rig(lambda prompt: f"{prompt.count('user' + chr(10))} a b c", breaker=Breaker(1)) as r:
        session = await r.session()
        await r.ask("one", session=session)
        gate = r.hold(after=2)
        turn = await r.hub.submit(r.request("two", session=session))
        waits = asyncio.ensure_future(r.hub.submit(r.request("three", session=session)))
        await eventually(lambda: gate.waited_for and len(turn.token_ids) == 2)
        r.engines[-1].scheduler.schedule = None
        gate.open()
        ended = await turn.stream.end()
        assert (ended.status, ended.error_code) == ("failed", "engine_stopped")
        assert "starts again" in ended.error_message
        await eventually(lambda: r.hub.engine.alive)
        assert r.hub.engine.restarts == 1 and len(r.engines) == 2
        assert r.engines[0].runner is r.engines[1].runner
        done = await asyncio.wait_for(asyncio.gather(waits, return_exceptions=True), DEADLINE)
        if isinstance(done[0], EngineStopped):  # it came while there was none
            done = [await r.hub.submit(r.request("three", session=session))]
        assert (await done[0].stream.end()).text == "3 a b c"
        _, again = await r.ask("four", session=session)
        assert again.text == "4 a b c" and again.receipt.cached_tokens > 0
        assert (await r.hub.engine.stats()).running == 0
        r.engines[-1].audit()


async def test_one_that_dies_again_and_again_stays_dead(rig):
    async with rig(breaker=Breaker(2)) as r:
        for count in (1, 2):
            await die(r)
            await eventually(lambda count=count: r.hub.engine.restarts == count and r.hub.engine.alive)
            assert (await r.ask("b"))[1].status == "completed"
        await die(r)
        await eventually(lambda: not r.hub.engine.alive)
        with pytest.raises(EngineStopped, match="restart the server"):
            await r.hub.submit(r.request("b"))
        with pytest.raises(EngineStopped):
            await r.hub.engine.stats()


async def test_a_deletion_while_there_is_no_engine_is_heard_by_the_next(rig):
    async with rig(breaker=Breaker(1)) as r:
        may_go_on, heard, build = threading.Event(), [], r.hub.engine._build

        def builds():
            engine = build()
            close, close_all = engine.sessions.close, engine.sessions.close_all
            engine.sessions.close = lambda owner: heard.append(owner) or close(owner)
            engine.sessions.close_all = lambda tenant: heard.append(tenant) or close_all(tenant)
            assert may_go_on.wait(DEADLINE)
            return engine

        r.hub.engine._build = builds
        await die(r)
        await eventually(lambda: r.hub.engine.restarting and not r.hub.engine.alive)
        r.hub.keeper.closed(owner_of("t", "conv_1"))
        r.hub.keeper.closed_all("t")
        may_go_on.set()
        await eventually(lambda: r.hub.engine.restarts == 1 and r.hub.engine.alive)
        await r.hub.engine.stats()
        assert heard == [owner_of("t", "conv_1"), "t"]


async def test_what_was_published_is_published_again(rig):
    async with rig(breaker=Breaker(1)) as r:
        await r.hub.publisher.publish("head", "Be brief, be kind, and never say more than you know. " * 4, "m")
        await die(r)
        await eventually(lambda: r.hub.engine.restarts == 1 and not r.hub._republishing)
        [known] = await r.hub.publisher.every()
        assert known.cache is not None


async def test_one_that_cannot_be_made_again_is_dead(rig):
    async with rig(breaker=Breaker(1)) as r:
        r.hub.engine._build = lambda: 1 / 0
        await die(r)
        await eventually(lambda: not r.hub.engine.alive and not r.hub.engine.restarting)
        with pytest.raises(EngineStopped, match="restart the server"):
            await r.hub.submit(r.request("b"))


async def test_a_dead_one_s_memory_is_let_go(rig):
    async with rig(breaker=Breaker(1)) as r:
        first, r.engine = weakref.ref(r.engines.pop()), None
        await die(r)
        await eventually(lambda: r.hub.engine.restarts == 1)
        gc.collect()
        assert first() is None


async def test_told_to_end_while_it_starts_again_it_ends(rig):
    async with rig(breaker=Breaker(1)) as r:
        await wound(r)
        asking = asyncio.ensure_future(r.ask("a"))
        await eventually(lambda: r.hub.engine.restarting or r.hub.engine.restarts)
        await r.hub.close()
        assert not r.hub.engine.alive
        with pytest.raises(EngineStopped):
            await r.hub.engine.stats()
        await asyncio.gather(asking, return_exceptions=True)
