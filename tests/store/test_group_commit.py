"""Writers of SQLite that come at the same time share a transaction, and each has its own end all the same."""

import asyncio
import os
import shutil
import sqlite3
import threading
from contextlib import suppress

import pytest
from sqlalchemy import text

from chatpager import failpoints
from chatpager.errors import ConversationNotFound, SessionBusy, StorageFull, StoreError
from chatpager.store import sessions
from chatpager.store.claim import FileClaim
from chatpager.store.group_commit import MOST
from tests.small_disk import small_disk  # noqa: F401
from tests.store.making import begin, conversation, count, end, entry, texts, user


async def together(store, *writes):
    """How writes end that come while another one has the database, and in how many transactions."""
    async with store._database._queue:
        tasks = [asyncio.ensure_future(write) for write in writes]
        for _ in range(5):
            await asyncio.sleep(0)
        before = store._database.transactions["write"]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    return ends, store._database.transactions["write"] - before


@pytest.fixture
async def store(sqlite_store):
    for number in range(3):
        await conversation(sqlite_store, f"conv_{number}")
    return sqlite_store


def turn(number, id=None, **fields):
    return begin(id or f"resp_{number}", user(f"Hello {number}"), session_id=f"conv_{number}", **fields)


async def test_they_share_one_transaction(store):
    begun, transactions = await together(store, *(store.begin_turn(turn(n)) for n in range(3)))
    assert [one.turn.id for one in begun] == ["resp_0", "resp_1", "resp_2"] and transactions == 1
    ended, transactions = await together(store, *(store.finish_turn(end(f"resp_{n}", "Yes")) for n in range(3)))
    assert [one.tip for one in ended] == ["moved"] * 3 and transactions == 1
    assert [await texts(store, f"conv_{n}") for n in range(3)] == [[f"Hello {n}", "Yes"] for n in range(3)]


async def test_what_one_of_them_is_refused_leaves_nothing_and_the_others_are_stored(store):
    """The second has stored its message by when it finds that the conversation is another's turn's."""
    writes = (store.begin_turn(turn(0)), store.begin_turn(turn(0, "resp_late")), store.begin_turn(turn(1)))
    unknown = store.begin_turn(begin("resp_lost", user("Hello"), session_id="conv_lost"))
    (first, busy, other, lost), transactions = await together(store, *writes, unknown)
    assert transactions == 1
    assert isinstance(busy, SessionBusy) and isinstance(lost, ConversationNotFound)
    assert (first.turn.id, other.turn.id) == ("resp_0", "resp_1")
    assert (await count(store))["turns"] == 2


async def broken(c):
    await c.execute(text("INSERT INTO messages (hash) VALUES ('half')"))


async def test_an_error_of_the_database_is_its_own_too(store):
    ends, _ = await together(
        store, store.begin_turn(turn(0)), store._database.writing("test", broken), store.begin_turn(turn(1))
    )
    assert isinstance(ends[1], StoreError) and [ends[0].turn.id, ends[2].turn.id] == ["resp_0", "resp_1"]
    assert (await count(store))["turns"] == 2 and not store._database.condition.unusable


async def test_where_one_keeps_the_transaction_from_being_committed_the_others_are_stored(store):
    async def refused_at_the_end(c):
        await c.execute(text("PRAGMA defer_foreign_keys=ON"))
        await c.execute(text("UPDATE sessions SET tip_hash='none' WHERE id='conv_2'"))

    ends, _ = await together(
        store, store.begin_turn(turn(0)), store._database.writing("test", refused_at_the_end), store.begin_turn(turn(1))
    )
    assert isinstance(ends[1], StoreError) and [ends[0].turn.id, ends[2].turn.id] == ["resp_0", "resp_1"]
    assert (await store.begin_turn(turn(2))).turn.id == "resp_2", "nothing of it is left open"


@pytest.mark.parametrize("small_disk", [2048], indirect=True)
async def test_one_for_which_the_disk_has_no_room_has_no_other_refused(small_disk, sqlite_template, open_store):  # noqa: F811
    """SQLite writes the log as it commits: only then the disk is full."""
    store = await open_store(f"sqlite+aiosqlite:///{shutil.copy(sqlite_template, small_disk)}", migrate=False)
    for number in range(3):
        await conversation(store, f"conv_{number}")
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 400_000))

    async def much(c):
        await c.execute(text("UPDATE sessions SET title = :title WHERE id='conv_2'"), {"title": "x" * 600_000})

    ends, _ = await together(
        store, store.begin_turn(turn(0)), store._database.writing("test", much), store.begin_turn(turn(1))
    )
    assert isinstance(ends[1], StorageFull) and [ends[0].turn.id, ends[2].turn.id] == ["resp_0", "resp_1"]


def temporary_files():
    """SQLite's, which have no name any more."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if "etilqs" in name]


async def test_what_could_be_taken_back_is_in_no_temporary_file(store):
    """Where a server has no folder for one, SQLite said that the disk failed; and in one nothing is overwritten."""
    for number in range(3):
        await store.append_messages("ann", f"conv_{number}", [user(f"{number} {n}") for n in range(400)], now=1)

    async def appends(c):
        await sessions.append(c, "ann", "conv_2", [user(f"more {n} " + "x" * 300) for n in range(40)], 2)
        return temporary_files()

    ends, transactions = await together(
        store, store.create_session("ann", id="a", now=1), store._database.writing("test", appends)
    )
    assert transactions == 1 and ends[1] == []


async def test_who_waits_is_told_where_the_task_that_writes_is_cancelled(store):
    async with store._database._queue:
        waits = asyncio.ensure_future(store.begin_turn(turn(0)))
        for _ in range(5):
            await asyncio.sleep(0)
        store._database._group._running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waits, 5)
    assert (await store.begin_turn(turn(1))).turn.id == "resp_1"


async def test_who_closes_keeps_the_claim_until_all_is_written(store):
    inside, go = threading.Event(), threading.Event()

    async def held(c):
        inside.set()
        assert go.wait(10)

    await store.claim()
    file = store._database.file
    writing = [
        asyncio.ensure_future(store._database.writing("test", held, deletes=deletes)) for deletes in (True, False)
    ]
    await asyncio.to_thread(inside.wait, 10)
    closing = asyncio.ensure_future(store.close())
    for _ in range(5):
        await asyncio.sleep(0)
    try:
        with pytest.raises(StoreError, match="in use"):
            FileClaim(file, "it")
        with pytest.raises(StoreError, match="is closed"):
            await store.session("ann", "conv_0")
    finally:
        go.set()
    assert await writing[0] is None
    with pytest.raises(StoreError, match="is closed"):
        await writing[1]
    await closing
    FileClaim(file, "it").release()


async def test_who_looks_at_the_file_meanwhile_does_not_forget_a_lost_write(store, monkeypatch):
    condition = store._database.condition
    looks = condition._identity_now

    def while_a_write_is_lost():
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        with suppress(StoreError), condition.judging():
            raise error
        return looks()

    monkeypatch.setattr(condition, "_identity_now", while_a_write_is_lost)
    with pytest.raises(StoreError, match="lost a write"):
        await store.session("ann", "conv_0")
    assert "lost a write" in condition.unusable


async def test_behind_a_disk_that_lost_a_write_none_is_written(store):
    """What an earlier one of them wrote may be lost as well."""

    async def lost(c):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    ends, _ = await together(
        store, store.begin_turn(turn(0)), store._database.writing("test", lost), store.begin_turn(turn(1))
    )
    assert [type(one) for one in ends] == [StoreError] * 3
    assert "lost a write" in store._database.condition.unusable


async def test_a_mistake_in_one_is_told_to_it_alone(store, monkeypatch):
    monkeypatch.setenv("CHATPAGER_TEST_MODE", "1")
    failpoints.arm("store.begin_turn.before_commit=raise@2,store.finish_turn.after_commit=raise")
    try:
        ends, transactions = await together(store, *(store.begin_turn(turn(n)) for n in range(3)))
        assert isinstance(ends[1], failpoints.FailpointHit) and transactions == 1
        assert [ends[0].turn.id, ends[2].turn.id] == ["resp_0", "resp_2"]
        ended, _ = await together(store, *(store.finish_turn(end(f"resp_{n}", "Yes")) for n in (0, 2)))
        assert {type(one) for one in ended} >= {failpoints.FailpointHit}
    finally:
        failpoints.arm("")
    assert (await count(store))["turns"] == 2
    assert await texts(store, "conv_0") == ["Hello 0", "Yes"]


async def test_who_leaves_before_its_turn_has_written_nothing(store):
    async with store._database._queue:
        left, stays = (asyncio.ensure_future(store.begin_turn(turn(n))) for n in range(2))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
    assert (await stays).turn.id == "resp_1"
    assert (await count(store))["turns"] == 1


async def test_who_leaves_in_the_middle_waits_for_the_end(store):
    leaving = []

    async def left_in_its_middle(c):
        loop.call_soon_threadsafe(leaving[0].cancel)
        await c.execute(text("UPDATE sessions SET title='stored' WHERE id='conv_0'"))

    loop = asyncio.get_running_loop()
    leaving.append(asyncio.ensure_future(store._database.writing("test", left_in_its_middle)))
    with pytest.raises(asyncio.CancelledError):
        await leaving[0]
    assert (await store.session("ann", "conv_0")).title == "stored"


async def test_a_steps_tokens_wait_for_no_more_than_a_few(store):
    await store.begin_turn(turn(0))
    many = 2 * MOST + 1
    async with store._database._queue:
        sessions = [asyncio.ensure_future(store.create_session("ann", id=f"more_{n}", now=1)) for n in range(many)]
        for _ in range(5):
            await asyncio.sleep(0)
        tokens = asyncio.ensure_future(store.journal([entry("resp_0", 0, "Yes")]))
        await asyncio.sleep(0)
        before = store._database.transactions["write"]
    await tokens
    assert sum(one.done() for one in sessions) <= MOST
    await asyncio.gather(*sessions)
    assert store._database.transactions["write"] - before == 1 + 3
