"""A database has one server, and gets another one as soon as that one is gone, however it went."""

import asyncio
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

import chatpager
from chatpager.errors import StoreError
from tests.gate import DEADLINE
from tests.store.making import begin, user

ROOT = Path(chatpager.__file__).parents[1]
CLAIMER = """
import asyncio, sys
from chatpager.store import Store

async def main():
    store = await Store.open(sys.argv[1], migrate=False)
    await store.claim()
    print("claimed", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_second_server_is_refused_until_the_first_closes(url, open_store):
    first, second = await open_store(url, migrate=False), await open_store(url, migrate=False)
    await first.claim()
    with pytest.raises(StoreError, match=r"in use by .*: stop it, or give this server a data folder of its own"):
        await second.claim()
    await second.create_session("t", id="conv_1", now=1)
    await first.close()
    await second.claim()


async def test_a_killed_server_leaves_no_claim(url, open_store):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLAIMER, url, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await process.stdout.readline() == b"claimed\n"
        store = await open_store(url, migrate=False)
        with pytest.raises(StoreError, match="in use"):
            await store.claim()
    finally:
        process.kill()
        await process.wait()
    async with asyncio.timeout(DEADLINE):
        await claimed(store)


async def claimed(store):
    """PostgreSQL notices the death of a client when it next looks at its socket."""
    while True:
        try:
            return await store.claim()
        except StoreError:
            await asyncio.sleep(0.02)


@pytest.fixture
def postgres_store_url(postgres_server, postgres_template):
    name = postgres_server.create(postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


async def end_backend_of_the_claim(store):
    """As an administrator would, or a restart of the database."""
    async with store._database.read() as c:
        await c.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND "
                "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )


@pytest.mark.postgres
class TestAClaimThatIsLost:
    async def test_is_taken_again_before_the_next_turn(self, postgres_store_url, open_store):
        first, second = [await open_store(postgres_store_url, migrate=False) for _ in range(2)]
        await first.claim()
        await end_backend_of_the_claim(second)
        await asyncio.gather(*(first.begin_turn(begin(f"resp_{n}", user("hi"))) for n in range(12)))
        with pytest.raises(StoreError, match="in use by another server"):
            await second.claim()
        await end_backend_of_the_claim(second)
        assert len(await first.recover(9)) == 12
        with pytest.raises(StoreError, match="in use by another server"):
            await second.claim()

    async def test_to_another_server_is_not_written_past(self, postgres_store_url, open_store):
        first, second = [await open_store(postgres_store_url, migrate=False) for _ in range(2)]
        await first.claim()
        await first.begin_turn(begin("resp_1", user("hi")))
        await end_backend_of_the_claim(second)
        await second.claim()
        assert [turn.turn_id for turn in await second.recover(9)] == ["resp_1"]
        await second.begin_turn(begin("resp_2", user("hi")))
        for _ in range(2):
            with pytest.raises(StoreError, match="another server, which claimed it when this one's connection"):
                await first.begin_turn(begin("resp_3", user("hi")))
        with pytest.raises(StoreError, match="stop one of the two"):
            await first.recover(9)
        assert [turn.id for turn in await first.active_turns("ann")] == ["resp_2"]
        await second.close()
        await first.begin_turn(begin("resp_3", user("hi")))

    async def test_is_not_taken_again_by_a_check_that_outlives_its_server(self, postgres_store_url, open_store):
        first, second = [await open_store(postgres_store_url, migrate=False) for _ in range(2)]
        await first.claim()
        checks = [asyncio.ensure_future(first._database._claim.check()) for _ in range(3)]
        await asyncio.sleep(0)
        await first.close()
        answers = await asyncio.gather(*checks, return_exceptions=True)
        assert {str(answer).rpartition(" is ")[2] for answer in answers if answer} <= {"closed"}
        async with asyncio.timeout(DEADLINE):
            await claimed(second)

    async def test_is_not_lost_by_who_stops_waiting_for_its_check(self, postgres_store_url, open_store):
        first = await open_store(postgres_store_url, migrate=False)
        await first.claim()
        held = first._database._claim._connection
        for n in range(20):
            recovering = asyncio.ensure_future(first.recover(9))
            for _ in range(n):
                await asyncio.sleep(0)
            recovering.cancel()
            await asyncio.wait([recovering])
        await first.recover(9)
        assert first._database._claim._connection is held and not held.invalidated


@pytest.fixture
def no_lock_file(sqlite_url):
    Path(sqlite_url.removeprefix("sqlite+aiosqlite:///") + ".lock").mkdir()


async def test_a_lock_that_cannot_be_made_is_said_so(sqlite_url, no_lock_file, open_store):
    store = await open_store(sqlite_url, migrate=False)
    with pytest.raises(StoreError, match=r"cannot be claimed: .*\.lock: Is a directory"):
        await store.claim()


async def test_by_another_name_it_is_the_same_database(sqlite_url, open_store, tmp_path):
    """Else both would run turns in it, and each take the other's for cut off."""
    link = tmp_path / "link.db"
    link.symlink_to(make_url(sqlite_url).database)
    first = await open_store(sqlite_url, migrate=False)
    second = await open_store(f"sqlite+aiosqlite:///{link}", migrate=False)
    await first.claim()
    with pytest.raises(StoreError, match="in use by process"):
        await second.claim()


def delete_lock(url):
    Path(make_url(url).database + ".lock").unlink()


async def test_a_lock_that_was_deleted_is_made_again(sqlite_url, open_store, caplog):
    """As by somebody who took it for one that a crash had left."""
    first, second = await open_store(sqlite_url, migrate=False), await open_store(sqlite_url, migrate=False)
    await first.claim()
    delete_lock(sqlite_url)
    await first.create_session("t", id="conv_1", now=1)
    assert "is claimed again" in caplog.text
    with pytest.raises(StoreError, match="in use by process"):
        await second.claim()


async def test_who_lost_a_deleted_lock_to_another_server_writes_and_reads_nothing_more(sqlite_url, open_store):
    first, second = await open_store(sqlite_url, migrate=False), await open_store(sqlite_url, migrate=False)
    await first.claim()
    delete_lock(sqlite_url)
    await second.claim()
    for _ in range(2):
        with pytest.raises(StoreError, match="in use by another server, which claimed it when"):
            await first.create_session("t", id="conv_1", now=1)
    assert first.unusable
    await first.close()
    await second.create_session("t", id="conv_1", now=1)
    with pytest.raises(StoreError, match="in use by process"):
        await (await open_store(sqlite_url, migrate=False)).claim()
