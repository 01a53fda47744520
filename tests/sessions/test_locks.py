import asyncio

import pytest

from chatpager.sessions.locks import KeyedLocks


async def test_waiters_of_one_key_are_served_in_order():
    locks, order = KeyedLocks(), []

    async def use(name):
        await locks.acquire("k")
        order.append(name)
        await asyncio.sleep(0)
        locks.release("k")

    await asyncio.gather(*(use(i) for i in range(5)))
    assert order == [0, 1, 2, 3, 4]
    assert locks._locks == {}


async def test_other_keys_and_no_key_do_not_wait():
    locks = KeyedLocks()
    await locks.acquire("a")
    await locks.acquire("b")
    await locks.acquire(None)
    await locks.acquire(None)
    locks.release(None)
    locks.release("a")
    await locks.acquire("a")
    assert set(locks._locks) == {"a", "b"}


async def test_a_waiter_that_gives_up_leaves_nothing_behind():
    locks = KeyedLocks()
    await locks.acquire("k")
    waiter = asyncio.ensure_future(locks.acquire("k"))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    locks.release("k")
    assert locks._locks == {}
