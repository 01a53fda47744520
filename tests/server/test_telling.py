"""One response on its way to one socket: at once where the socket takes it, by the task where it does not."""

import asyncio
import json

import pytest

from chatpager.server.encode_response import ResponseFacts
from chatpager.server.protocol import ResponsesProtocol
from chatpager.server.telling import TOLD_TOGETHER, Telling
from chatpager.sessions.answers import Delta
from chatpager.sessions.stream import Prefilled, Started, TurnStream
from tests.serving import eventually

FACTS = ResponseFacts("resp_1", 0, "m", None, None, {})
STEP = 5.0


class Turn:
    def __init__(self):
        self.stream = TurnStream()
        self.stream.append(Started("resp_1", 0))


class Outlet:
    def __init__(self, protocol):
        self.protocol = protocol
        self.free = True
        self.at_once, self.waited, self.times = [], [], []
        self.takes_more = asyncio.Event()
        self.takes_more.set()

    def is_free(self):
        return self.free

    def write(self):
        self.at_once.append(self._frames())

    async def act(self):
        await self.takes_more.wait()
        self.waited.append(self._frames())

    def written(self, stepped_at):
        self.times.append(stepped_at)

    def _frames(self):
        return [json.loads(frame) for frame in self.protocol.frames_to_send()]

    @property
    def told(self):
        return [frame for frames in (*self.waited, *self.at_once) for frame in frames]


class Told:
    def __init__(self, *, after=None, log=(), extended=False):
        self.turn = Turn()
        self.turn.stream.extend(log, STEP)
        protocol = ResponsesProtocol(extended=extended)
        protocol.resume("resp_1", -1)
        protocol.events_received()
        protocol.began(FACTS, None, -1 if after is None else after)
        self.outlet = Outlet(protocol)
        again = after is not None
        telling = Telling(self.turn, None, protocol, self.outlet, again=again, prefill_seconds=1000)
        self.task = asyncio.ensure_future(telling.run())

    async def __aenter__(self):
        await eventually(lambda: self.outlet.waited)
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def show(self, *texts):
        self.turn.stream.extend([Delta(text) for text in texts], STEP)


async def test_what_a_step_brings_is_written_where_it_is_shown():
    async with Told() as told:
        told.show("a")
        told.show("b", "c")
        assert [[f["delta"] for f in frames if "delta" in f] for frames in told.outlet.at_once] == [["a"], ["b", "c"]]
        assert told.outlet.times == [STEP] * 3


async def test_while_the_socket_takes_nothing_the_task_waits_for_it_and_everything_comes_in_order():
    async with Told() as told:
        told.outlet.free = False
        told.outlet.takes_more.clear()
        told.show("a")
        await asyncio.sleep(0)
        told.outlet.free = True
        told.show("b", "c")
        assert told.outlet.at_once == [], "the task is sending what came before"
        told.outlet.takes_more.set()
        await eventually(lambda: len(told.outlet.told) == 7)
        assert [frame["sequence_number"] for frame in told.outlet.told] == list(range(7))
        told.show("d")
        assert [frame["delta"] for frame in told.outlet.at_once[0]] == ["d"], "and goes back to waiting"


async def test_who_comes_back_gets_what_there_is_together_and_only_what_is_new_has_a_time():
    log = [Delta(str(i)) for i in range(2 * TOLD_TOGETHER)]
    async with Told(after=9, log=log) as told:
        await eventually(lambda: sum(map(len, told.outlet.waited)) == len(log) - 6)
        assert len(told.outlet.waited) == 3
        assert told.outlet.told[0]["sequence_number"] == 10
        assert told.outlet.times == []
        told.show("new")
        assert told.outlet.times == [STEP]


async def test_of_a_prompt_no_more_is_told_than_now_and_then():
    async with Told(extended=True) as told:
        for done in range(3):
            told.turn.stream.append(Prefilled(done, 3, 0), STEP)
            await asyncio.sleep(0.002)
        kinds = [frame["type"] for frame in told.outlet.told]
        assert kinds.count("chatpager.prefill") == 1


async def test_a_mistake_ends_the_telling_and_not_who_shows(monkeypatch):
    async with Told() as told:
        monkeypatch.setattr(told.outlet, "write", lambda: 1 / 0)
        told.show("a")
        with pytest.raises(ZeroDivisionError):
            await told.task
        told.show("nobody listens any more")


async def test_nobody_watches_a_stream_that_has_been_left():
    async with Told() as told:
        told.task.cancel()
        await asyncio.gather(told.task, return_exceptions=True)
        assert told.turn.stream._watching == []
