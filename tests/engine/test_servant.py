"""In which order a servant tells what its engine's steps bring; where it runs is its hosts' tests' matter."""

import queue
from collections import deque

import pytest

from chatpager.engine.questions import StatsWanted
from chatpager.engine.servant import COMMANDS, Answered, Asked, Refused, Servant, Stepped
from tests.engine.fakes import continuation, make_engine, request
from tests.looking import Look

PROMPT = (1, 2, 3)


class Given(deque):
    """An inbox whose last message is the end, once there is nothing to compute."""

    def get(self, *, timeout):
        if self:
            return self.popleft()
        if timeout is not None:
            raise queue.Empty
        return None


class World:
    """``order``: what was told and which steps ran, one after the other."""

    def __init__(self, *handed):
        self.engine = make_engine(num_blocks=60)
        self.given, self.order, self.marks = Given(handed), [], []
        self.servant = Servant(self.engine, self.given, self.order.append, self.marks.append)
        run = self.engine.runner.run
        self.engine.runner.run = lambda plan: self.order.append("ran") or run(plan)

    def tokens(self):
        steps = [told for told in self.order if isinstance(told, Stepped)]
        return [token for step in steps for output in step.outputs for token in output.token_ids]


def test_what_a_step_brought_is_told_when_the_next_is_launched_and_the_last_at_once():
    world = World(request("a", PROMPT))
    world.servant.serve()
    assert [told == "ran" for told in world.order] == [True, False] * 4
    assert world.tokens() == continuation(PROMPT, 4)
    assert world.marks == [0, COMMANDS, 1, 2, 3, 4, 0, 0], "between two steps it is no less at work"


def test_no_answer_overtakes_what_a_step_before_it_brought():
    world = World(request("a", PROMPT, 3))
    step = world.engine.step

    def step_and_ask(clock):
        outputs = step(clock)
        world.given.append(Asked(1, StatsWanted()))
        world.given.append(Asked(2, Look(lambda engine: 1 / 0)))
        world.engine.step = step
        return outputs

    world.engine.step = step_and_ask
    world.servant.serve()
    assert world.marks[1:6] == [COMMANDS, 1, COMMANDS + 1, COMMANDS + 2, 2]
    first, told, answered, refused = world.order[:4]
    assert first == "ran" and told.outputs[0].request_id == "a", "the first token came first"
    assert isinstance(answered, Answered) and (answered.number, answered.answer.running) == (1, 1)
    assert isinstance(refused, Refused) and refused.number == 2


def test_what_the_last_step_brought_does_not_wait_for_blocks_that_are_saved():
    world, before = World(request("a", PROMPT, 3)), []

    class Saving:
        """Tiers that save in three goes what a request computed."""

        left = 0
        has_work = property(lambda self: self.left > 0)

        def give_way(self, computes):
            pass

        def work(self, idle):
            if not idle:
                self.left = 3
            elif self.left:
                before.append(world.tokens())
                self.left -= 1

    world.engine.tiers = Saving()
    world.servant.serve()
    last_step, *later = before
    assert last_step == continuation(PROMPT, 3)[:2] and later == [continuation(PROMPT, 3)] * 2


def test_what_an_engine_dies_of_is_raised_and_what_it_brought_is_told():
    world = World(request("a", PROMPT, 9))
    step, steps = world.engine.step, []

    def breaks(clock):
        steps.append(None)
        if len(steps) == 3:
            raise RuntimeError("bug")
        return step(clock)

    world.engine.step = breaks
    with pytest.raises(RuntimeError, match="bug"):
        world.servant.serve()
    assert world.tokens() == continuation(PROMPT, 9)[:2] and world.marks[-1] == 0
