"""What servers call of an engine that is a Ray actor, called without Ray."""

import asyncio
import os

from chatpager.engine.messages import AttendRequest, CancelRequest
from chatpager.engine.servant import Stepped
from chatpager.errors import ModelLoadError
from chatpager.sessions.engine_frames import End, NotStarted, Started, Unframed, packed, up
from chatpager.sessions.ray_actor import AUTH_MODE, RayEngine, digest
from tests.engine.fakes import make_engine, request
from tests.serving_client import eventually

PROMPT = tuple(range(1, 12))


async def opened(actor, front, settings=b""):
    [body] = Unframed().feed(await actor.open(front, digest(settings)))
    return up(body)


async def test_nobody_is_served_where_no_token_is_asked_for_or_with_other_settings(monkeypatch):
    actor = RayEngine(lambda settings: make_engine(), b"these", digest(b"these"))
    monkeypatch.delenv(AUTH_MODE, raising=False)
    assert "asks for no token" in (await opened(actor, "a", b"these")).fault.message
    monkeypatch.setenv(AUTH_MODE, "token")
    assert "other settings" in (await opened(actor, "a", b"those")).fault.message
    await actor.put("a", 1, packed(request("r", PROMPT)))
    await actor.end()


async def test_what_failed_is_tried_again_what_comes_early_waits_and_an_end_closes_the_engine(monkeypatch):
    faults, closed = [ModelLoadError("m", "not there yet")], []

    def build(settings):
        if faults:
            raise faults.pop()
        engine = make_engine(num_blocks=60, max_tokens=64)
        engine.close = lambda: closed.append(settings)
        return engine

    monkeypatch.setenv(AUTH_MODE, "token")
    actor = RayEngine(build, b"s", digest(b"s"))
    assert isinstance(await opened(actor, "a", b"s"), NotStarted)
    assert isinstance(await opened(actor, "a", b"s"), Started)
    await actor.put("a", 2, packed(CancelRequest("r")))
    await actor.put("a", 1, packed(request("r", PROMPT, 50)))
    unframed, told = Unframed(), []
    async for frames in actor.steps("a"):
        told += [one for step in map(up, unframed.feed(frames)) if isinstance(step, Stepped) for one in step.outputs]
        if told and told[-1].finish_reason:
            await actor.put("a", 3, packed(End()))
    assert told[-1].finish_reason == "cancelled"
    assert (await actor.pulse("a")).process == os.getpid()
    assert not actor._silent and not actor._ready
    await actor.end()
    assert closed == [b"s"]


async def test_a_server_that_falls_silent_is_given_up_though_no_other_calls(monkeypatch):
    """Whether it is being read for or not."""
    monkeypatch.setenv(AUTH_MODE, "token")
    monkeypatch.setattr("chatpager.sessions.ray_actor.FRONT_SECONDS", 0.05)
    actor = RayEngine(lambda settings: make_engine(num_blocks=60, max_tokens=64), b"s", digest(b"s"))
    assert isinstance(await opened(actor, "reads", b"s"), Started)
    reading = asyncio.ensure_future(anext(actor.steps("reads"), None))
    assert isinstance(await opened(actor, "never read", b"s"), Started)
    await actor.put("never read", 1, packed(AttendRequest("r", False)))
    assert await reading is None
    await eventually(lambda: not (actor._silent or actor._ready or actor._early or actor._fronts._going))
    await actor._ageing
    await actor.end()


async def test_what_comes_behind_a_server_s_last_word_is_not_begun(monkeypatch):
    """Ray promises no order."""
    monkeypatch.setenv(AUTH_MODE, "token")
    engine = make_engine(num_blocks=60, max_tokens=64)
    actor = RayEngine(lambda settings: engine, b"s", digest(b"s"))
    for front in ("gone", "other"):
        assert isinstance(await opened(actor, front, b"s"), Started)
    await actor.put("gone", 1, packed(request("begun", PROMPT, 50)))
    await actor.close("gone")
    assert actor._ready.keys() == {"other"} == actor._fronts._going.keys(), "nobody reads for it"
    assert [frames async for frames in actor.steps("gone")] == []
    await actor.put("gone", 2, packed(request("late", PROMPT, 50)))
    await actor.put("other", 1, packed(request("other", PROMPT, 3)))
    await eventually(lambda: any(name.endswith("other") for rows in engine.runner.steps for name, _ in rows))
    await actor.end()
    assert {name.partition("\0")[2] for rows in engine.runner.steps for name, _ in rows} - {"begun"} == {"other"}
