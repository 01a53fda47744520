import asyncio
import threading

import pytest

from chatpager.engine.messages import AddRequest, CancelRequest, PublishPrefix, WithdrawPrefix
from chatpager.engine.sequence import SamplingParams
from chatpager.engine.servant import Asked
from chatpager.errors import EngineStopped, InvalidRequest
from chatpager.sessions.engine_host import Hearers
from chatpager.sessions.engine_thread import EngineThread
from tests.engine.fakes import continuation, make_engine
from tests.gate import DEADLINE
from tests.looking import Look, look


def add(name, prompt=(1, 2, 3), count=5):
    params = SamplingParams(temperature=0.0, max_tokens=count)
    return AddRequest(request_id=name, prompt_token_ids=list(prompt), params=params)


class Listener:
    def __init__(self):
        self.calls = []
        self.tokens = {}
        self.ended = {}
        self.finished, self.died = asyncio.Event(), asyncio.Event()
        self.wanted = 1
        self.threads = set()

    def __call__(self, outputs):
        self.threads.add(threading.current_thread())
        self.calls.append(outputs)
        for output in outputs:
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                self.ended[output.request_id] = output
        if len(self.ended) >= self.wanted:
            self.finished.set()


@pytest.fixture
async def rig():
    listener = Listener()
    engine = make_engine(num_blocks=60)
    thread = EngineThread(lambda: engine, Hearers(listener, death=listener.died.set))
    facts = await thread.start()
    assert (facts.num_blocks, facts.block_size, facts.max_model_len, facts.caching) == (59, 4, 64, True)
    yield thread, listener, engine
    await thread.stop()


async def test_commands_go_in_and_one_call_a_step_comes_out_on_the_loop(rig):
    thread, listener, engine = rig
    listener.wanted = 2
    thread.send(add("a"))
    thread.send(add("b", (4, 5, 6)))
    await listener.finished.wait()
    assert listener.tokens == {"a": continuation((1, 2, 3), 5), "b": continuation((4, 5, 6), 5)}
    assert len(listener.calls) <= len(engine.runner.steps), "never more calls than steps"
    assert listener.threads == {threading.main_thread()}


async def test_prefixes_are_published_and_withdrawn_and_what_is_none_stops_nothing(rig):
    thread, *_ = rig
    thread.send(PublishPrefix(label="head", token_ids=[1, 2, 3, 4]))
    thread.send(PublishPrefix(label="part of a block", token_ids=[1, 2, 3]))
    assert await look(thread, lambda engine: [p.label for p in engine.published]) == ["head"]
    thread.send(WithdrawPrefix("part of a block"))
    thread.send(WithdrawPrefix("head"))
    assert await look(thread, lambda engine: list(engine.published)) == []
    assert thread.alive


async def test_an_idle_engine_waits_without_stepping(rig):
    thread, listener, engine = rig
    thread.send(add("a", count=1))
    await listener.finished.wait()
    await thread.stats()
    step, counted = engine.step, []
    engine.step = lambda clock: counted.append(1) or step(clock)
    for _ in range(20):
        assert (await thread.stats()).running == 0
    assert counted == []


async def test_a_refused_request_is_answered_like_any_other(rig):
    thread, listener, _ = rig
    thread.send(add("a", prompt=[5000]))
    await listener.finished.wait()
    assert listener.ended["a"].finish_reason == "error"
    assert listener.ended["a"].error_code == "invalid_request"
    assert "outside" in listener.ended["a"].error_message


async def test_cancelling_reaches_the_engine(rig):
    thread, listener, _ = rig
    release = threading.Event()
    thread._commands.put(
        Asked(0, Look(lambda engine: release.wait(DEADLINE)))
    )  # both commands are there before the next step
    thread.send(add("a", count=40))
    thread.send(CancelRequest("a"))
    release.set()
    await listener.finished.wait()
    assert listener.ended["a"].finish_reason == "cancelled"
    assert listener.tokens["a"] == []


async def test_what_the_build_raises_is_raised_here_and_nothing_runs():
    def build():
        raise ValueError("no model")

    thread = EngineThread(build, Hearers(Listener()))
    with pytest.raises(ValueError, match="no model"):
        await thread.start()
    assert not thread.alive
    with pytest.raises(EngineStopped):
        thread.send(add("a"))
    await thread.stop()


async def test_an_engine_that_raises_ends_the_thread_and_says_so_once(rig):
    thread, listener, engine = rig

    def broken(clock):
        raise RuntimeError("bug")

    engine.step = broken
    listener.wanted = 0
    thread.send(add("a"))
    await listener.finished.wait()
    assert listener.calls == [[]]
    assert not thread.alive
    with pytest.raises(EngineStopped):
        thread.send(add("b"))
    with pytest.raises(EngineStopped):
        await thread.stats()


async def test_figures_asked_for_by_one_who_gave_up_are_dropped(rig):
    thread, _, _ = rig
    release = threading.Event()
    thread._commands.put(Asked(0, Look(lambda engine: release.wait(DEADLINE))))
    asking = asyncio.ensure_future(thread.stats())
    await asyncio.sleep(0)
    asking.cancel()
    release.set()
    assert (await thread.stats()).waiting == 0


@pytest.mark.parametrize(
    "error", [InvalidRequest("what is that?"), OSError("what is that?"), KeyError("what is that?")]
)
async def test_a_question_at_fault_is_its_askers_and_the_engine_goes_on(rig, error):
    thread, _, _ = rig

    def refuse(engine):
        raise error

    with pytest.raises(type(error), match="what is that"):
        await look(thread, refuse)
    assert (await thread.stats()).waiting == 0


async def test_a_thread_that_was_never_started_can_be_stopped():
    await EngineThread(make_engine, Hearers(Listener())).stop()


async def test_figures_asked_of_an_engine_that_ends_are_refused_not_awaited_for_ever(rig):
    thread, _, _ = rig

    async def ask_until_refused():
        while True:
            await thread.stats()

    thread._commands.put(None)
    with pytest.raises(EngineStopped):
        await asyncio.wait_for(ask_until_refused(), DEADLINE)


async def test_what_the_last_step_brought_is_told_before_the_engine_dies(rig):
    thread, listener, engine = rig
    step, steps = engine.step, []

    def breaks(clock):
        steps.append(None)
        if len(steps) == 3:
            raise RuntimeError("bug")
        return step(clock)

    engine.step = breaks
    listener.wanted = 0
    thread.send(add("a", count=9))
    await listener.died.wait()
    assert listener.tokens == {"a": continuation((1, 2, 3), 9)[:2]}
    assert listener.calls[-1] == []
