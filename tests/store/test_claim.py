"""A database has one server, and gets another one as soon as that one is gone, however it went."""

import asyncio
import sys
from pathlib import Path

import pytest

import chatpager
from chatpager.errors import StoreError

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
    async with asyncio.timeout(10):
        await claimed(store)


async def claimed(store):
    """PostgreSQL notices the death of a client when it next looks at its socket."""
    while True:
        try:
            return await store.claim()
        except StoreError:
            await asyncio.sleep(0.02)


@pytest.fixture
def no_lock_file(sqlite_url):
    Path(sqlite_url.removeprefix("sqlite+aiosqlite:///") + ".lock").mkdir()


async def test_a_lock_that_cannot_be_made_is_said_so(sqlite_url, no_lock_file, open_store):
    store = await open_store(sqlite_url, migrate=False)
    with pytest.raises(StoreError, match=r"cannot be claimed: .*\.lock: Is a directory"):
        await store.claim()
