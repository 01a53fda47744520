"""A transaction of SQLite's in one visit to a thread: all of it or nothing, whoever is cancelled, whatever fails."""

import asyncio
import threading

import pytest
from sqlalchemy import text

from chatpager.errors import StoreError
from chatpager.store import NewMessage, text_content
from tests.gate import DEADLINE

SAYS_TITLE = text("UPDATE sessions SET title = 'seen'")


async def title(store):
    return (await store.session("ann", "conv_1")).title


@pytest.fixture
async def database(sqlite_store):
    await sqlite_store.create_session("ann", id="conv_1", title="first", now=1)
    return sqlite_store._database


async def test_what_fails_half_way_changes_nothing(database, sqlite_store):
    async def fails(c):
        await c.execute(SAYS_TITLE)
        raise KeyError("half way")

    with pytest.raises(KeyError, match="half way"):
        await database.writing("test", fails)
    assert await title(sqlite_store) == "first"


async def test_a_room_that_waits_for_something_else_is_found_out(database, sqlite_store):
    async def waits(c):
        await c.execute(SAYS_TITLE)
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited for something else"):
        await database.writing("test", waits)
    assert await title(sqlite_store) == "first"


async def test_who_is_cancelled_waits_for_the_end_of_what_he_began(database, sqlite_store):
    begun, go_on = threading.Event(), threading.Event()

    async def holds(c):
        await c.execute(SAYS_TITLE)
        begun.set()
        assert go_on.wait(DEADLINE)

    writing = asyncio.create_task(database.writing("test", holds))
    await asyncio.to_thread(begun.wait, 30)
    writing.cancel()
    await asyncio.sleep(0)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await title(sqlite_store) == "seen"


async def test_who_is_cancelled_hears_of_a_write_that_failed(database, sqlite_store):
    begun, go_on = threading.Event(), threading.Event()

    async def fails(c):
        begun.set()
        assert go_on.wait(DEADLINE)
        await c.execute(text("INSERT INTO sessions (id) VALUES ('conv_1')"))

    writing = asyncio.create_task(database.writing("test", fails))
    await asyncio.to_thread(begun.wait, 30)
    writing.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(StoreError):
        await writing
    assert await title(sqlite_store) == "first"


async def test_searches_wait_for_each_other_and_nobody_for_them(database, sqlite_store):
    begun, go_on, order = threading.Event(), threading.Event(), []

    async def search(c):
        begun.set()
        assert go_on.wait(DEADLINE)
        order.append((await c.scalars(text("SELECT title FROM sessions"))).one())

    searches = [asyncio.create_task(database.reading(search, long=True)) for _ in range(8)]
    await asyncio.to_thread(begun.wait, 30)
    assert await title(sqlite_store) == "first"
    assert not order
    go_on.set()
    await asyncio.gather(*searches)
    assert order == ["first"] * 8


async def test_a_long_read_sees_one_state_and_holds_nobody_up(database, sqlite_store):
    begun, go_on = threading.Event(), threading.Event()
    seen = []

    async def reads(c):
        for _ in range(2):
            seen.append((await c.scalars(text("SELECT title FROM sessions"))).one())
            begun.set()
            assert go_on.wait(DEADLINE)

    reading = asyncio.create_task(database.reading(reads))
    await asyncio.to_thread(begun.wait, 30)
    await sqlite_store.update_session("ann", "conv_1", title="second")
    assert await title(sqlite_store) == "second"
    said = NewMessage(role="user", content=text_content("hi"))
    assert len(await sqlite_store.append_messages("ann", "conv_1", [said], now=2)) == 1
    go_on.set()
    await reading
    assert seen == ["first", "first"]
