"""Servers that share a database: a turn is one's alone, and who was taken for dead writes nothing more of it."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import select

from chatpager.errors import ConfigError, SessionBusy, StoreError
from chatpager.store import Store, ownership
from chatpager.store.tables import owners
from tests.gate import DEADLINE
from tests.serving_client import eventually
from tests.store.making import begin, end, entry, texts, tip, user


async def begun(store, id, session="conv_1"):
    new = begin(id, user("hi"), session_id=session, parent_hash=await tip(store, session))
    return await store.begin_turn(new)


@pytest.fixture
async def two(url, open_store):
    """Neither has a lease: each may take over what the other one has."""
    return [await open_store(url, migrate=False) for _ in range(2)]


async def test_a_session_changes_hands_with_its_turns_and_its_epoch_grows(two):
    first, second = two
    await first.create_session("ann", id="conv_1", now=1)
    for n, store in enumerate((first, first, second, second, first)):
        await store.begin_turn(
            begin(f"resp_{n}", user("hi"), session_id="conv_1", parent_hash=await tip(first, "conv_1"))
        )
        session = await second.session("ann", "conv_1")
        assert (session.owner, session.owner_epoch) == (store.owner, (1, 1, 2, 2, 3)[n])
        assert (await store.finish_turn(end(f"resp_{n}", "hello"))).tip == "moved"


async def test_of_two_that_begin_at_once_one_has_the_session(two):
    await two[0].create_session("ann", id="conv_1", now=1)
    at_once = [store.begin_turn(begin(f"resp_{n}", user("hi"), session_id="conv_1")) for n, store in enumerate(two)]
    found = await asyncio.gather(*at_once, return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["BegunTurn", "SessionBusy"]
    winner = next(n for n, one in enumerate(found) if not isinstance(one, SessionBusy))
    session = await two[0].session("ann", "conv_1")
    assert (session.owner, session.owner_epoch) == (two[winner].owner, 1)


@pytest.mark.parametrize("named", ["conv_1", None])
async def test_who_was_taken_for_dead_writes_nothing_more(two, named):
    first, second = two
    await first.create_session("ann", id="conv_1", now=1)
    await first.begin_turn(begin("resp_1", user("hi"), session_id=named))
    assert await first.journal([entry("resp_1", 0, "hel")]) == set()
    assert [done.turn_id for done in await second.recover(9)] == ["resp_1"]
    assert await first.journal([entry("resp_1", 3, "lo")]) == {"resp_1"} == await first.taken(["resp_1", "resp_none"])
    assert await second.taken(["resp_1"]) == set()
    refused = await first.finish_turn(end("resp_1", "hello"))
    assert (refused.tip, refused.status) == ("turn_taken", "interrupted")
    stored = await second.turn("ann", "resp_1")
    assert (stored.status, stored.owner) == ("interrupted", second.owner)
    if named:
        assert await texts(second, "conv_1") == ["hi", "hel"]


async def write(store, id, mark, began, some):
    """Until it is refused; how many tokens were stored. ``began`` is set behind more than ``some``."""
    stored = 0
    while not await store.journal([entry(id, stored, mark)]):
        stored += 1
        if stored > some:
            began.set()
    return stored


async def test_no_two_commit_one_index(two):
    """What a writer was told is stored is all that there is of its turn, whenever the other one comes."""
    await two[0].create_session("ann", id="conv_1", now=1)
    for n in range(12):
        owner, other = two if n % 2 else two[::-1]
        id, mark = f"resp_{n}", "ab"[n % 2]
        await begun(owner, id)
        began = asyncio.Event()
        writing = asyncio.ensure_future(write(owner, id, mark, began, some=n % 4))
        await began.wait()
        (taken,) = await other.recover(9, [id])
        stored = await writing
        assert (await owner.finish_turn(end(id, mark * stored + "!"))).tip == "turn_taken"
        assert taken.tokens == stored > n % 4
        assert (await texts(other, "conv_1"))[-1] == mark * stored
    session = await two[0].session("ann", "conv_1")
    assert session.owner_epoch == 13  # the first turn's, and a takeover in each


class TestALease:
    """Of a server that shares the database: while it lasts nobody else ends its turns."""

    @pytest.fixture
    async def shared(self, postgres_server, postgres_template, open_store):
        name = postgres_server.create(postgres_template)
        yield lambda share=True: open_store(postgres_server.url(name), migrate=True, share=share)
        postgres_server.drop(name)

    @pytest.mark.postgres
    async def test_keeps_its_turns_until_it_has_passed(self, shared):
        first, second = await shared(), await shared()
        await first.claim()
        await second.claim()
        await first.create_session("ann", id="conv_1", now=1)
        await first.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
        assert await second.recover(9) == []
        with pytest.raises(SessionBusy):
            await second.begin_turn(
                begin("resp_2", user("hi"), session_id="conv_1", parent_hash=await tip(second, "conv_1"))
            )
        async with first._database.write("test") as c:  # as if it had been stopped for so long
            await ownership.renew(c, first.owner, -1)
        assert [done.turn_id for done in await second.recover(9)] == ["resp_1"]
        await second.begin_turn(
            begin("resp_2", user("hi"), session_id="conv_1", parent_hash=await tip(second, "conv_1"))
        )
        assert await first.journal([entry("resp_1", 0, "hel")]) == {"resp_1"}
        await first.begin_turn(begin("resp_3", user("hi")))  # it goes on with what is new

    @pytest.mark.postgres
    async def test_is_given_back_at_the_end_and_is_no_claim(self, shared):
        first, alone = await shared(), await shared(False)
        await first.claim()
        await first.begin_turn(begin("resp_1", user("hi")))
        with pytest.raises(
            StoreError, match="shared by other servers: give this one --share-database, too, or stop them"
        ):
            await alone.claim()
        await first.close()
        await alone.claim()
        assert [done.turn_id for done in await alone.recover(9)] == ["resp_1"]
        second = await shared()
        with pytest.raises(StoreError, match="in use by a server that does not share it: stop it"):
            await second.claim()

    @pytest.mark.postgres
    async def test_that_was_not_renewed_in_time_is_renewed_before_the_next_turn(self, shared):
        first, second = await shared(), await shared()
        await first.claim()
        lease = first._database._claim
        lease._renewing.cancel()
        async with first._database.write("test") as c:
            await ownership.renew(c, first.owner, -1)
        lease._renewed -= 60
        await first.begin_turn(begin("resp_1", user("hi")))
        assert await second.recover(9) == []

    @pytest.mark.postgres
    async def test_is_renewed_where_every_other_connection_is_in_use_and_beside_one_that_hangs(self, shared):
        first, second = await shared(), await shared()
        await first.claim()
        lease = first._database._claim
        lease._renewing.cancel()
        async with AsyncExitStack() as held:
            for _ in range(15):
                await held.enter_async_context(first._database.read())
            async with asyncio.timeout(DEADLINE):
                await lease._renew()
        async with second._database.write("test") as c:
            await c.execute(select(owners).with_for_update())
            lease._milliseconds, begun = 300, first.transactions["write"]
            for _ in range(2):
                with pytest.raises(StoreError, match=r"away: it did not answer within 0\.1 s"):
                    await lease._renew()
            assert first.refuses.startswith("is away"), "who asks hears of it, though nobody writes"
            lease._milliseconds = 6000
            renewing = asyncio.ensure_future(lease._renew())
        await renewing
        assert (first.refuses, first.transactions["write"]) == ("", begun), "it is nobody's write"
        first._database.condition.refuses = "is read-only"
        await lease._renew()
        assert first.refuses == "is read-only", "the lease does not tell what others can write"

    @pytest.mark.postgres
    async def test_is_renewed_once_for_all_who_begin_turns_behind_an_outage(self, shared):
        first, second = await shared(), await shared()
        await first.claim()
        lease = first._database._claim
        lease._renewing.cancel()
        lease._renewed -= 60
        async with second._database.write("test") as c:
            await c.execute(select(owners).with_for_update())
            checks = [asyncio.ensure_future(lease.check()) for _ in range(5)]
            await eventually(lambda: lease._writing)
            assert len(lease._writing) == 1
            checks[0].cancel()
        done = await asyncio.gather(*checks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError) and done[1:] == [None] * 4, "who went keeps nobody from it"

    @pytest.mark.postgres
    async def test_is_given_back_behind_renewals_that_still_run_but_one_that_hangs_is_not_waited_for(self, shared):
        first, second = await shared(), await shared()
        await first.claim()
        lease = first._database._claim
        renewal = lease._transaction(lambda c: ownership.renew(c, first.owner, 6000), lease._connect())
        lease._writing.add(asyncio.ensure_future(renewal))
        await first.close()
        async with second._database.read() as c:
            assert not await ownership.others(c, second.owner)
        await second.claim()
        lease, hanging = second._database._claim, asyncio.ensure_future(asyncio.Event().wait())
        lease._milliseconds = 300
        lease._writing.add(hanging)
        async with asyncio.timeout(DEADLINE):
            await second.close()
        hanging.cancel()

    async def test_is_nothing_for_sqlite(self, sqlite_url):
        with pytest.raises(ConfigError, match="share_database: a SQLite database has one server; give a postgresql"):
            await Store.open(sqlite_url, migrate=False, share=True)
