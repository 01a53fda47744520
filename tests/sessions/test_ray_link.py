"""The line to a Ray actor, with an actor of this process that is called as Ray has it called: Ray need not be there."""

import asyncio
import inspect
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import ModuleType

import pytest

from chatpager.errors import EngineStopped
from chatpager.sessions.engine_host import Hearers
from chatpager.sessions.engine_process import EngineProcess
from chatpager.sessions.ray_actor import AUTH_MODE, Pulse, RayEngine, digest
from chatpager.sessions.ray_link import PULSE_SECONDS, SILENT_SECONDS, RayReplica
from chatpager.sessions.restarts import Breaker
from tests.engine.fakes import continuation, make_engine, request
from tests.gate import DEADLINE
from tests.serving_client import eventually

PROMPT = tuple(range(1, 12))
NO_FRAME = b"\x01\0\0\0\xc1"
"""A body that is no message."""


@pytest.fixture(autouse=True)
def ray_errors(monkeypatch):
    """Ray's, or their like where there is none."""
    if find_spec("ray") is None:
        errors = ModuleType("ray.exceptions")
        errors.RayError = type("RayError", (Exception,), {})
        errors.RayTaskError = type("RayTaskError", (errors.RayError,), {})
        ray = ModuleType("ray")
        ray.exceptions = errors
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.exceptions", errors)
    import ray.exceptions

    return ray.exceptions


class Method:
    """Of a handle."""

    def __init__(self, function):
        self._function = function

    def options(self, **how):
        return self

    def remote(self, *given):
        answer = self._function(*given)
        return self._stream(answer) if inspect.isasyncgen(answer) else asyncio.ensure_future(answer)

    async def _stream(self, items):
        async for item in items:
            told = asyncio.get_running_loop().create_future()
            told.set_result(item)
            yield told


class Handle:
    """``instead``: what is called in the place of the actor's own methods."""

    def __init__(self, actor, **instead):
        self._actor, self._instead = actor, instead

    def __getattr__(self, name):
        return Method(self._instead.get(name) or getattr(self._actor, name))


class Replica(RayReplica):
    """``handles`` are what it is given, one after the other, the last one again and again; one that is an exception is
    raised."""

    def __init__(self, actor, *handles):
        super().__init__("r", lambda settings: None, b"", pulse=0.01)
        self._handles = [*handles, Handle(actor)]

    def actor(self):
        handle = self._handles.pop(0) if len(self._handles) > 1 else self._handles[0]
        if isinstance(handle, Exception):
            raise handle
        return handle


async def no_pause(seconds):
    pass


class Home:
    """An actor, and a host of it."""

    def __init__(self):
        self.actor = RayEngine(lambda settings: make_engine(num_blocks=60), b"", digest(b""))
        self.tokens = []
        self.host = None

    async def start(self, *handles, breaker=None, **more):
        hearers = Hearers(lambda outputs: self.tokens.extend(token for one in outputs for token in one.token_ids))
        self.host = EngineProcess(Replica(self.actor, *handles), hearers, breaker or Breaker(2), **more)
        await self.host.start()

    async def is_back(self, times):
        await eventually(lambda: self.host.restarts == times and self.host.alive)
        self.host.send(request("a", PROMPT, 3))
        await eventually(lambda: self.tokens == continuation(PROMPT, 3))


@pytest.fixture
async def home(monkeypatch):
    monkeypatch.setenv(AUTH_MODE, "token")
    made = Home()
    yield made
    await made.host.stop()
    await made.actor.end()


async def test_a_line_that_brings_no_frame_is_over(home):
    async def steps(front):
        yield NO_FRAME
        await asyncio.Event().wait()

    await home.start(Handle(home.actor, steps=steps))
    await home.is_back(1)


async def test_a_line_that_is_lost_is_begun_again_until_there_is_one(home, ray_errors):
    """However often: that a network fails says nothing of the engine."""

    async def steps(front):
        raise ray_errors.RayError("the network")
        yield

    pauses, lost, taken = [], Handle(home.actor, steps=steps), ray_errors.RayTaskError("there is no place")

    async def pause(seconds):
        pauses.append(seconds)

    await home.start(lost, taken, taken, lost, lost, taken, breaker=Breaker(1), pause=pause)
    await home.is_back(3)
    assert pauses[0] == 0.0 and len(pauses) == 6
    assert all(0.25 * 2**i <= pause <= 0.5 * 2**i for i, pause in enumerate(pauses[1:]))


async def test_while_it_waits_for_its_next_start_nothing_is_killed_and_told_to_end_it_ends(
    home, ray_errors, monkeypatch
):
    """The actor lives, or is another by now: the first of several servers has killed the one that hung."""

    async def steps(front):
        raise ray_errors.RayError("the network")
        yield

    waits = asyncio.Event()

    async def pause(seconds):
        waits.set()
        await asyncio.Event().wait()

    await home.start(Handle(home.actor, steps=steps), pause=pause)
    await waits.wait()
    killed = []
    monkeypatch.setattr("ray.kill", lambda actor, no_restart: killed.append(actor), raising=False)
    home.host.kill()
    assert not killed
    await home.host.stop()
    assert not home.host.restarting and home.host._again is None


async def test_a_line_that_lost_what_was_sent_is_over(home, ray_errors):
    """The actor would wait for it, and hear nothing of what was sent behind it."""

    async def put(front, number, frames):
        if number > 1:
            await home.actor.put(front, number, frames)
        else:
            raise ray_errors.RayError("the network")

    await home.start(Handle(home.actor, put=put))
    home.host.send(request("lost", PROMPT, 3))
    await home.is_back(1)


async def test_an_actor_that_hangs_as_it_loads_is_killed_and_the_next_one_joined(home, ray_errors, monkeypatch):
    async def steps(front):
        raise ray_errors.RayError("the network")
        yield

    async def hangs(front, settings):
        await asyncio.Event().wait()

    killed, stuck = [], Handle(home.actor, open=hangs)
    monkeypatch.setattr("ray.kill", lambda actor, no_restart: killed.append(actor), raising=False)
    lost = Handle(home.actor, steps=steps)
    await home.start(lost, stuck, pause=no_pause)
    monkeypatch.setattr("chatpager.sessions.engine_process.LOAD_SECONDS", 0.05)
    await home.is_back(1)
    assert killed[0] is stuck


async def test_a_cluster_that_does_not_answer_has_no_place_and_keeps_no_thread_of_others(home, monkeypatch):
    answers = threading.Event()
    replica = Replica(home.actor)
    monkeypatch.setattr(replica, "actor", lambda: answers.wait(DEADLINE))
    monkeypatch.setattr("chatpager.sessions.ray_link.PLACE_SECONDS", 0.05)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    home.host = EngineProcess(replica, Hearers(lambda outputs: None))
    with pytest.raises(EngineStopped, match="no place for r"):
        await home.host.start()
    await asyncio.to_thread(answers.set)


async def test_a_server_whose_own_loop_is_held_up_tells_of_no_step(home):
    """Its watchdog would have an actor killed that works for others."""
    await home.start()
    link = home.host._link
    link._tasks[1].cancel()  # as if it never came to its turn
    link._hear_pulse(Pulse(7, 1))
    assert home.host.step == 7
    link._heard -= 2 * (SILENT_SECONDS + PULSE_SECONDS)
    assert home.host.step is None
