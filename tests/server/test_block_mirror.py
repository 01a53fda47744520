"""The block map as pages are told of it: whoever applies what changed has what there is."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.block_map import code_of
from chatpager.engine.questions import Changes
from chatpager.server.block_mirror import BlockMirror
from chatpager.sessions.replica_blocks import BlockNumbers
from tests.gate import DEADLINE
from tests.looking import look

HEADER = np.dtype("<u4")


class Told:
    """A page's copy, made of the bytes alone."""

    def __init__(self):
        self.stamp = self.epoch = 0
        self.codes, self.parents = {}, {}

    def take(self, body):
        stamp, epoch, total, count, whole = np.frombuffer(body, HEADER, 5).tolist()
        rest = body[20:]
        ids = list(range(1, total + 1))
        if not whole:
            ids, rest = np.frombuffer(rest, HEADER, count).tolist(), rest[4 * count :]
        assert len(ids) == count and len(rest) == 5 * count
        self.parents |= dict(zip(ids, np.frombuffer(rest, HEADER, count).tolist(), strict=True))
        self.codes |= dict(zip(ids, rest[4 * count :], strict=True))
        self.stamp, self.epoch = stamp, epoch
        return count


class Asked:
    def __init__(self, batches):
        self.batches = batches

    async def changes(self, most):
        return self.batches.pop(0)


CHANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8), st.integers(0, 40)), max_size=12)


@given(st.lists(CHANGES, min_size=1, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_who_follows_has_what_there_is_however_often_it_asks(rounds, asks):
    mirror, page = BlockMirror(), Told()
    mirror._epoch = "0000beef" * 2
    mirror._put_up(40)
    truth = dict.fromkeys(range(1, 41), (0, 0))
    for changes, asked in zip(rounds, asks, strict=False):
        latest = {block: (block, code, parent) for block, code, parent in changes}
        mirror._take(list(latest.values()))
        truth |= {block: (code, parent) for block, code, parent in latest.values()}
        if asked:
            page.take(mirror.since(page.stamp, page.epoch))
    page.take(mirror.since(page.stamp, page.epoch))
    assert {block: (page.codes[block], page.parents[block]) for block in truth} == truth
    if page.stamp:
        assert page.take(mirror.since(page.stamp, page.epoch)) == 0, "nothing has changed since"


async def test_another_engine_is_told_whole():
    mirror, page = BlockMirror(), Told()
    asked = Asked([Changes("aaaaaaaa1", 3, [(2, 5, 0)], False), Changes("bbbbbbbb1", 2, [(1, 1, 0)], False)])
    assert page.take(await mirror.told(asked, 0, 0)) == 3
    page = Told()
    page.stamp, page.epoch = 1, 0xAAAAAAAA
    assert page.take(await mirror.told(asked, page.stamp, page.epoch)) == 2
    assert (page.epoch, page.codes) == (0xBBBBBBBB, {1: 1, 2: 0})


async def test_a_replica_comes_back_with_another_pool():
    """Its blocks are free again; where there are more of them, or fewer, those of the others have other numbers."""
    numbers, mirror, page = BlockNumbers({"r0": 2, "r1": 3}), BlockMirror(), Told()
    codes, parents = [], []
    for told in (
        [
            ("r0", Changes("a", 2, [(1, 2, 0), (2, 5, 1)], False)),
            ("r1", Changes("b", 3, [(1, 4, 0), (3, 1, 1)], False)),
        ],
        [("r0", Changes("c", 4, [(4, 6, 3)], False)), ("r1", Changes("b", 3, [(2, 3, 1)], False))],
        [("r0", Changes("d", 1, [], False))],
        [("r0", Changes("d", 1, [(1, 8, 0)], False)), ("r1", Changes("e", 3, [(2, 7, 1)], False))],
    ):
        page.take(await mirror.told(Asked([numbers.changes(told)]), page.stamp, page.epoch))
        blocks = range(1, len(mirror._codes))
        codes.append([page.codes[id] for id in blocks])
        parents.append([page.parents[id] for id in blocks])
    assert codes == [[2, 5, 4, 0, 1], [0, 0, 0, 6, 4, 3, 1], [0, 4, 3, 1], [8, 0, 7, 0]]
    assert parents == [[0, 1, 0, 0, 3], [0, 0, 0, 3, 0, 5, 5], [0, 0, 2, 2], [0, 0, 2, 0]]
    assert numbers.find(4) == ("r1", 3) and numbers.find(5) is None


async def test_a_large_pool_comes_in_slices():
    batches = [Changes("aaaaaaaa1", 9, [(i, 3, 0)], i < 9) for i in range(1, 10)]
    page = Told()
    page.take(await BlockMirror().told(Asked(batches), 0, 0))
    assert batches == []
    assert set(page.codes.values()) == {3}


async def test_who_leaves_takes_no_change_along():
    mirror, asked_for, answered = BlockMirror(), asyncio.Event(), asyncio.Event()

    class Slow(Asked):
        async def changes(self, most):
            taken = self.batches.pop(0)
            asked_for.set()
            await answered.wait()
            return taken

    asked = Slow([Changes("aaaaaaaa1", 3, [(2, 5, 0)], False), Changes("aaaaaaaa1", 3, [], False)])
    left = asyncio.create_task(mirror.told(asked, 0, 0))
    await asked_for.wait()
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    answered.set()
    page = Told()
    page.take(await mirror.told(asked, 0, 0))
    assert page.codes == {1: 0, 2: 5, 3: 0}


async def test_a_page_is_told_of_one_moment():
    """What another page's look finds meanwhile would be half in it, and under a stamp that says it was all told."""
    telling, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Held(BlockMirror):
        def since(self, stamp, epoch):
            loop.call_soon_threadsafe(telling.set)
            assert go_on.wait(DEADLINE)
            return super().since(stamp, epoch)

    mirror, asked = Held(), Asked([Changes("aaaaaaaa1", 3, [(n, 5, 0)], False) for n in (1, 2)])
    first = asyncio.create_task(mirror.told(asked, 0, 0))
    await telling.wait()
    second = asyncio.create_task(mirror.told(asked, 0, 0))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting = len(asked.batches)
    go_on.set()
    pages = Told(), Told()
    pages[0].take(await first)
    pages[1].take(await second)
    assert waiting == 1 and [page.codes for page in pages] == [{1: 5, 2: 0, 3: 0}, {1: 5, 2: 5, 3: 0}]


async def test_the_map_that_the_server_tells_is_the_pools(server):
    conversation = await server.conversation()
    page = Told()
    for said in ("The quick brown fox jumps over the lazy dog", "And then?"):
        await server.respond(said, conversation=conversation)
        answer = await server.get(f"/v1/admin/blocks?since={page.stamp}&epoch={page.epoch}")
        assert answer.headers["content-type"] == "application/octet-stream"
        page.take(answer.body)
        pool = await look(server.hub.engine, lambda engine: engine.pool)
        assert page.codes == {b.id: code_of(b) for b in pool.blocks[1:]}
        assert page.parents == {b.id: b.parent.id if b.parent else 0 for b in pool.blocks[1:]}
    for name in ("since", "epoch"):
        assert (await server.get(f"/v1/admin/blocks?{name}=x")).refusal == (400, "invalid_request", name)
