"""Tenants in turn: who is served when, who is sent away, and for how long."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.errors import RateLimited
from chatpager.sessions.fair_queue import LATE, FairQueue


class World:
    def __init__(self, most=3):
        self.now = 0.0
        self.queue = FairQueue(most, lambda: self.now)
        self.served = []
        self.tasks = {}

    async def ask(self, name):
        """``name`` begins with its tenant's letter."""

        async def wait():
            await self.queue.enter(name[0])
            self.served.append(name)

        self.tasks[name] = asyncio.ensure_future(wait())
        await asyncio.sleep(0)

    async def leave(self, seconds=1.0):
        self.now += seconds
        self.queue.leave()
        await asyncio.sleep(0)

    async def give_up(self, name):
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)


async def test_a_tenant_with_many_does_not_hold_up_another():
    world = World()
    for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
        await world.ask(name)
    for _ in range(7):
        await world.leave()
    assert world.served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]
    await world.ask("d1")
    assert world.served[-1] == "d1", "nobody is before it"


async def test_only_so_many_of_a_tenant_may_wait_and_are_told_when_to_come_again():
    world = World(most=2)
    await world.ask("a")
    for number in range(40):
        await world.ask(f"a{number}")
        await world.leave(4.0)
    for name in ("ax", "ay", "b1", "b2"):
        await world.ask(name)
    with pytest.raises(RateLimited, match="2 grammars of yours") as refused:
        await world.queue.enter("a")
    assert 15.9 < refused.value.retry_after < 16.1, "two rounds of two tenants, four seconds each"
    await world.ask("c1")
    assert not world.tasks["c1"].done(), "others may still wait"


async def test_nobody_is_sent_away_for_ever():
    world = World(most=1)
    await world.ask("a1")
    await world.ask("a2")
    await world.leave(1e9)
    await world.ask("a3")
    with pytest.raises(RateLimited) as refused:
        await world.queue.enter("a")
    assert refused.value.retry_after == LATE


async def test_who_gives_up_is_not_waited_for():
    world = World()
    for name in ("a1", "a2", "b1", "c1"):
        await world.ask(name)
    await world.give_up("a2")
    world.queue.leave()  # b1 is called, and gives up before it hears of it
    await world.give_up("b1")
    await asyncio.sleep(0)
    assert world.served == ["a1", "c1"]
    await world.leave()
    await world.ask("d1")
    assert world.served == ["a1", "c1", "d1"]


async def test_who_gives_up_and_has_not_run_since_holds_up_nobody():
    world = World()
    for name in ("a1", "a2", "a3", "b1"):
        await world.ask(name)
    world.tasks["a2"].cancel()
    world.queue.leave()
    await asyncio.gather(world.tasks["a2"], return_exceptions=True)
    assert world.served == ["a1", "a3"]
    world.tasks["b1"].cancel()
    world.queue.leave()
    await asyncio.gather(world.tasks["b1"], return_exceptions=True)
    await world.ask("c1")
    assert world.served == ["a1", "a3", "c1"], "nobody is before it"


STEPS = st.lists(st.sampled_from(["a", "b", "c", "leave", "leave", "give up", "both"]), max_size=60)


@given(STEPS, st.randoms(use_true_random=False))
def test_each_is_served_in_its_tenant_s_order_and_passed_over_once_by_each_other(steps, chance):
    async def run():
        world, gone, passed = World(most=100), set(), {}
        for number, step in enumerate(steps):
            before = len(world.served)
            waiting = [n for n, task in world.tasks.items() if not task.done() and n not in gone]
            if step in ("a", "b", "c"):
                await world.ask(f"{step}{number:03}")
            elif step == "give up" and waiting:
                gone.add(chosen := chance.choice(waiting))
                await world.give_up(chosen)
            elif step == "both" and waiting and world.queue._served_since is not None:
                gone.add(chosen := chance.choice(waiting))
                world.tasks[chosen].cancel()
                await world.leave()
            elif step == "leave" and world.queue._served_since is not None:
                await world.leave()
            assert len(world.served) - before <= 1
            waits = {name[0] for name in waiting}
            passed = {tenant: by for tenant, by in passed.items() if tenant in waits}
            for served in world.served[before:]:
                for other in waits - {served[0]}:
                    passed.setdefault(other, []).append(served[0])
                passed.pop(served[0], None)
            assert all(len(by) == len(set(by)) for by in passed.values())
        while world.queue._served_since is not None:
            await world.leave()
        assert set(world.served) | gone == set(world.tasks)
        for tenant in "abc":
            names = [name for name in world.served if name[0] == tenant]
            assert names == sorted(names)

    asyncio.run(run())
