"""What an engine's host promises, of a thread, of a process, of replicas of them and of a Ray actor: the same."""

import asyncio
import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from chatpager.engine.heads import Strength
from chatpager.engine.messages import CancelRequest, CloseSession, LeaseRequest, PublishPrefix, ReleaseLease
from chatpager.engine.questions import (
    AnyQuestion,
    BlockWanted,
    CacheOf,
    ChangesTaken,
    EventsWanted,
    LargestSessions,
    LeasedWanted,
    LeaseWanted,
    Prefetch,
    PublishedWanted,
    Publishing,
    RecordsGone,
    RecordsWanted,
    ResidencesWanted,
    StatsWanted,
)
from chatpager.errors import ContextLengthExceeded, EngineStopped, InvalidRequest
from chatpager.sessions.engine_host import Hearers
from chatpager.sessions.engine_link import Program
from chatpager.sessions.engine_process import EngineProcess
from chatpager.sessions.engine_replicas import EngineReplicas
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.ray_link import RayLink, RayReplica, end_actor
from chatpager.sessions.restarts import Breaker
from tests.engine.fakes import answer, continuation, make_engine, request
from tests.processes import ROOT, traced
from tests.serving_client import eventually
from tests.sessions.engine_program import build

PROGRAM = "tests.sessions.engine_program"
SIZES = {"num_blocks": 60}
PROMPT = tuple(range(1, 12))
LONG = tuple(range(100, 140))
"""Three steps' worth of prompt."""


class Steps:
    """Lets an engine of ``engine_program`` take so many steps."""

    def __init__(self, path):
        os.mkfifo(path)
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def let(self, count=1):
        os.write(self._fifo, b"." * count)

    def hold(self):
        try:
            while os.read(self._fifo, 1 << 16):
                pass
        except BlockingIOError:
            pass

    def close(self):
        os.close(self._fifo)


class Home:
    """A host, and what it told."""

    def __init__(self, kind, path, breaker=None):
        self.steps = Steps(path)
        settings = json.dumps({"steps": str(path), **SIZES}).encode()
        hearers = Hearers(self._hear, self._hear_leases, self._die, self._restart)
        program = Program([sys.executable, "-m", PROGRAM], settings)
        if kind == "thread":
            self.host = EngineThread(lambda: build(settings), hearers, breaker)
        elif kind == "process":
            self.host = EngineProcess(program, hearers, breaker)
        elif kind == "ray":
            actor = RayReplica(path.parent.name, build, settings, pulse=0.01, num_cpus=0)
            self.host = EngineProcess(actor, hearers, breaker)
        else:
            self.host = EngineReplicas({"r0": partial(EngineProcess, program, breaker=breaker)}, hearers)
        [self.engine] = self.host.engines
        self.tokens, self.ended, self.calls, self.leases = {}, {}, [], []
        self.deaths, self.restarts, self.pids, self.hears_wrong = 0, 0, [], False

    def _hear(self, outputs):
        if self.hears_wrong:
            raise LookupError("a mistake of who hears")
        self.calls.append(outputs)
        for output in outputs:
            self.tokens.setdefault((output.request_id, output.index), []).extend(output.token_ids)
            if output.finish_reason:
                self.ended[output.request_id, output.index] = output

    def _hear_leases(self, events):
        self.leases += events

    def _die(self):
        self.deaths += 1

    def _restart(self):
        self.restarts += 1

    def note(self):
        """The process of the moment."""
        if isinstance(self.engine, EngineProcess):
            self.pids.append(self.engine.pid)

    def zombies(self):
        return [pid for pid in self.pids if Path(f"/proc/{pid}").exists()]

    async def end(self, name, index=0):
        await eventually(lambda: (name, index) in self.ended)
        return self.ended[name, index]

    async def run(self, *args, **more):
        """One request to its end, with as many steps as it likes."""
        self.steps.let(1000)
        self.host.send(request(*args, **more))
        ended = await self.end(args[0])
        self.steps.hold()
        return ended

    async def delivered(self):
        """What was sent is there; only what is sent to several, and a line to elsewhere, takes its time."""
        await asyncio.sleep(0)  # several are told in the loop's next round
        link = getattr(self.engine, "_link", None)
        if isinstance(link, RayLink):
            await asyncio.sleep(0)  # it goes with the loop's next round
            await link._actor.pulse.remote(link._front)

    async def in_step(self, number):
        await eventually(lambda: self.host.step == number)


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory):
    """A Ray of one machine, with a token."""
    from chatpager.cli.ray_cluster import begin

    begin(tmp_path_factory.mktemp("ray"), cpus=1)
    yield
    import ray

    ray.shutdown(wait_for_processes=True)


@pytest.fixture(params=["thread", "process", "replicas", pytest.param("ray", marks=pytest.mark.cluster)])
async def home(request, tmp_path, monkeypatch):
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    for name, value in traced().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = os.listdir("/proc/self/fd")
    made = Home(request.param, tmp_path / "steps", Breaker(2))
    facts = await made.host.start()
    assert (facts.num_blocks, facts.block_size, facts.max_model_len, facts.caching) == (59, 4, 64, True)
    assert made.host.alive and made.host.step is None
    made.note()
    yield made
    made.steps.let(1000)
    await made.host.stop()
    assert not made.host.alive
    with pytest.raises(EngineStopped, match="restart the server"):
        await made.host.stats()
    made.steps.close()
    if request.param == "ray":  # who has it is not who ends it, and Ray opens files as it likes
        assert made.zombies()[-1:] == made.pids[-1:]
        end_actor(tmp_path.name)
        await eventually(lambda: not made.zombies())
        return
    assert os.listdir("/proc/self/fd") == before
    assert not made.zombies()


async def test_tokens_and_what_was_found_are_those_of_an_engine_without_a_host(home):
    alone = make_engine(**SIZES)
    for name in ("a", "b"):
        told = await home.run(name, PROMPT, 5, owner="s")
        usage = answer(alone, name, PROMPT, 5, owner="s").usage
        assert home.tokens[name, 0] == continuation(PROMPT, 5)
        assert timeless(told.usage) == timeless(usage)
    assert home.ended["b", 0].usage.cached_tokens > 0
    assert all(len(call) == 1 for call in home.calls), "one call a step"

    for question in QUESTIONS:
        assert timeless(await home.host.ask(question)) == timeless(question.answer(alone, 0.0)), question
    for question, kind in REFUSED:
        with pytest.raises(kind) as here:
            await home.host.ask(question)
        with pytest.raises(kind) as there:
            question.answer(alone, 0.0)
        assert (str(here.value), vars(here.value)) == (str(there.value), vars(there.value))

    home.host.send(ReleaseLease("s"))
    await eventually(lambda: [event.change for event in home.leases] == ["granted", "released"])
    assert (await home.host.stats()).leased_blocks == {"soft": 0, "hard": 0}
    home.host.send(request("c", [5000]))
    refused = await home.end("c")
    assert (refused.error_code, "outside" in refused.error_message) == ("invalid_request", True)


async def test_a_mistake_of_who_hears_is_not_the_engines(home):
    mistakes = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context["exception"]))
    home.hears_wrong = True
    home.steps.let(1)
    home.host.send(request("a", PROMPT, 1))
    await eventually(lambda: mistakes)
    home.hears_wrong = False
    await home.run("b", PROMPT, 2)
    assert home.tokens["b", 0] == continuation(PROMPT, 2)
    assert home.host.alive and not home.deaths and {type(one) for one in mistakes} == {LookupError}


async def test_a_request_is_cancelled_in_every_phase(home):
    home.host.send(request("runs", PROMPT, 9))
    await home.in_step(1)
    home.host.send(request("waits", LONG, 5))
    home.host.send(CancelRequest("waits"))
    await home.delivered()
    home.steps.let(2)
    assert (await home.end("waits")).finish_reason == "cancelled" and not home.tokens["waits", 0]
    await home.in_step(3)

    home.host.send(request("prefills", LONG, 5))
    await home.delivered()
    home.steps.let(1)
    await home.in_step(4)
    home.steps.let(1)
    await home.in_step(5)
    home.host.send(CancelRequest("prefills"))
    home.host.send(CancelRequest("runs"))
    await home.delivered()
    home.steps.let(1)
    for name in ("prefills", "runs"):
        assert (await home.end(name)).finish_reason == "cancelled"
    assert home.tokens["prefills", 0] == [] and 0 < home.ended["prefills", 0].usage.committed_tokens < len(LONG)
    assert home.tokens["runs", 0] == continuation(PROMPT, 9)[:5]
    home.host.send(CancelRequest("runs"))
    stats = await home.host.stats()
    assert (stats.running, stats.waiting, stats.memory.active) == (0, 0, 0)


@pytest.mark.parametrize("how", ["mistake", "kill"])
async def test_an_engine_that_dies_is_told_and_made_again(home, how):
    if how == "kill" and isinstance(home.host, EngineThread):
        assert not home.host.kill()
        return
    moves = isinstance(home.host, EngineReplicas)
    home.host.send(request("a", PROMPT, 9))
    await home.in_step(1)
    home.steps.let(2)
    await eventually(lambda: len(home.tokens.get(("a", 0), [])) == 2)
    if how == "mistake":
        home.engine.send(CancelRequest(["no name at all"]))
    asked = asyncio.ensure_future(home.host.stats())
    await asyncio.sleep(0)
    await home.delivered()
    if how == "kill":
        os.kill(home.engine.pid, signal.SIGKILL)
    home.steps.let(how == "mistake")
    with pytest.raises(EngineStopped, match="starts again"):
        await asked
    assert home.tokens["a", 0] == continuation(PROMPT, 9)[: len(home.tokens["a", 0])]
    assert len(home.tokens["a", 0]) >= 2
    assert (home.calls[-1] == [], home.deaths) == ((False, 0) if moves else (True, 1))
    if isinstance(home.engine, EngineProcess):  # a thread has its next engine in no time
        with pytest.raises(EngineStopped, match="starts again"):
            home.host.send(request("b", PROMPT))
        home.host.send(CloseSession("s"))
    await eventually(lambda: home.restarts and home.host.alive)
    assert (home.host.restarts, home.restarts, home.host.restarting) == (1, 1, False)
    home.note()
    assert (await home.run("c", LONG, 5)).usage.cached_tokens == 0
    assert home.tokens["c", 0] == continuation(LONG, 5)
    if moves:
        home.steps.let(20)
        assert (await home.end("a")).usage.output_tokens == 9 and home.tokens["a", 0] == continuation(PROMPT, 9)
    else:
        assert ("a", 0) not in home.ended
    if isinstance(home.engine, EngineProcess):
        await eventually(lambda: not home.engine._erasing)


async def test_an_engine_that_is_told_to_end_ends_after_its_step(home):
    home.host.send(request("a", PROMPT, 9))
    await home.in_step(1)
    home.steps.let(1)
    await home.in_step(2)
    stopping = asyncio.ensure_future(home.host.stop())
    await asyncio.sleep(0)
    await home.delivered()
    home.steps.let(1)
    await stopping
    assert home.tokens["a", 0] == continuation(PROMPT, 9)[:2]
    assert home.calls[-1] == [] and home.deaths == 1


QUESTIONS = [
    StatsWanted(),
    LeaseWanted(LeaseRequest(owner="s", strength=Strength.HARD, ttl=30.0)),
    LeaseWanted(LeaseRequest(owner="nobody", strength=Strength.SOFT, ttl=30.0)),
    CacheOf("s"),
    CacheOf("nobody"),
    LargestSessions("", 5),
    Publishing(PublishPrefix(label="head", token_ids=[1, 2, 3, 4])),
    PublishedWanted(),
    Prefetch(request("p", PROMPT, owner="s")),
    ChangesTaken(8),
    BlockWanted(1),
    BlockWanted(1000),
    LeasedWanted(5),
    ResidencesWanted(["s", "nobody"]),
    EventsWanted(None, 100),
    EventsWanted(1, 100),
    RecordsWanted(),
    RecordsGone(["none"]),
]
REFUSED = [
    (Publishing(PublishPrefix(label="part of a block", token_ids=[1, 2, 3])), InvalidRequest),
    (Prefetch(request("p", [5000])), InvalidRequest),
    (Prefetch(request("p", [1] * 64)), ContextLengthExceeded),
]


def test_every_question_is_asked_above():
    assert {type(question) for question in QUESTIONS} == set(get_args(AnyQuestion))


DISTRIBUTIONS = {"between_tokens", "evict_age", "reuse_gap"}
TIMES = {"seconds_left", "unused_seconds", "queue_seconds", "prefill_seconds"} | DISTRIBUTIONS


def timeless(told):
    """Without what depends on the moment, and on which engine it is."""
    match msgspec.to_builtins(told):
        case dict() as facts:
            return {name: timeless(value) for name, value in facts.items() if name not in TIMES}
        case list() | tuple() as several:
            return [timeless(value) for value in several]
        case str() as text if re.fullmatch("[0-9a-f]{16}", text):
            return "epoch"
        case value:
            return value
