"""Several front ends that do not talk: with the same queues they place conversations alike, and few of these move where
a replica joins.

A front end is the serving path below the sessions: replicas behind one seam, their engines with real block pools and
caches, in threads.
"""

from functools import partial

import pytest

from chatpager.engine.messages import PublishPrefix
from chatpager.sessions.engine_host import Hearers
from chatpager.sessions.engine_replicas import EngineReplicas
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.heads import owner_of
from chatpager.sessions.placement import POLICY
from tests.engine.fakes import make_engine, request
from tests.gate import Gate
from tests.serving_client import eventually

SESSIONS = 10_000
AT_ONCE = 250
"""Turns that are queued together: replicas are over their bound now and then."""
NAMES = tuple(f"r{i}" for i in range(5))
OWNERS = [owner_of("t", f"conv_{i}") for i in range(SESSIONS)]
HEADS = [[500 + i] * 4 for i in range(50)]
"""Published."""
HEADLESS = [400] * 4


class FrontEnd:
    """It has read its replicas in an order of its own. Its clock stands until ``now`` is moved, and its engines while
    turns are sent to them."""

    def __init__(self, names):
        self.now, self.running, self._gate = 0.0, set(), Gate()
        hearers = Hearers(self._hear)
        self.host = EngineReplicas(
            {name: partial(EngineThread, self._engine) for name in names}, hearers, clock=lambda: self.now
        )

    def _engine(self):
        engine = make_engine(num_blocks=2000, max_tokens=4000, max_seqs=AT_ONCE)
        run = engine.runner.run
        engine.runner.run = lambda plan: self._gate.go_through() or run(plan)
        return engine

    def _hear(self, outputs):
        self.running -= {output.request_id for output in outputs if output.finish_reason}

    async def places(self, owners):
        """Where each conversation's next turn goes; one in three begins with a published prefix."""
        found = {}
        for begin in range(0, len(owners), AT_ONCE):
            self._gate.hold()
            for i, owner in enumerate(owners[begin : begin + AT_ONCE], begin):
                self.running.add(f"{i}")
                self.host.send(request(f"{i}", [*(HEADS[i % 50] if i % 3 == 0 else HEADLESS), i % 997], 1, owner=owner))
                found[owner] = self.host.place_of(owner)
            self._gate.open()
            await eventually(lambda: not self.running)
        return found


@pytest.fixture
async def front_ends():
    made = [FrontEnd(NAMES), FrontEnd(NAMES[::-1])]
    for end in made:
        await end.host.start()
        for i, head in enumerate(HEADS):
            end.host.send(PublishPrefix(label=f"head {i}", token_ids=head))
        end.host.drain("r4")
    yield made
    for end in made:
        await end.host.stop()


def differ(one, other):
    return [owner for owner in one if one[owner] != other[owner]]


async def test_two_front_ends_place_ten_thousand_conversations_alike_and_few_move_where_a_replica_joins(front_ends):
    one, other = front_ends
    idle = {owner: other.host.place_of(owner) for i, owner in enumerate(OWNERS) if i % 3}
    before = await one.places(OWNERS)
    assert differ(before, await other.places(OWNERS)) == []
    assert differ(idle, before), "nobody was over the bound"
    one.host.drain("r4", drains=False)
    one.now = POLICY.lease
    after = await one.places(OWNERS)
    assert set(after.values()) == set(NAMES)
    assert len(differ(before, after)) / SESSIONS <= 1 / len(NAMES) + 0.05
