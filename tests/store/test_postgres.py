"""What only PostgreSQL has: a pool of connections and a number of them, a standby that takes over, and files that keep
what was deleted."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack, contextmanager

import pytest
from sqlalchemy import text

from chatpager.errors import ConfigError, StoreError
from chatpager.store import Store
from tests import postgres
from tests.gate import DEADLINE
from tests.processes import ROOT
from tests.store.making import begin, conversation, end, entry, texts, user

pytestmark = pytest.mark.postgres
WORD = "Xylophonwort"


@pytest.fixture
def postgres_database(postgres_server, postgres_template):
    name = postgres_server.create(postgres_template)
    yield name
    postgres_server.drop(name)


async def test_where_every_connection_is_in_use_it_is_said_and_over_with_the_first_that_is_free(
    postgres_server, postgres_database, open_store
):
    store = await open_store(postgres_server.url(postgres_database), migrate=False)
    pool = store._database._engine.pool
    pool._timeout = 0.05
    async with AsyncExitStack() as readers:
        for _ in range(pool.size() + pool._max_overflow):
            await readers.enter_async_context(store._database.read())
        with pytest.raises(StoreError, match="is busy: every connection is in use"):
            await store.create_session("ann", id="conv_1", now=1)
        pool._timeout = DEADLINE
        waiting = asyncio.ensure_future(store.create_session("ann", id="conv_1", now=1))
        await asyncio.sleep(0)
        assert not waiting.done()
    assert (await waiting).id == "conv_1"


async def test_where_the_server_takes_no_more_connections_it_is_said_and_what_is_connected_goes_on(
    postgres_server, postgres_database, open_store
):
    postgres_server.run("psql", "-qc", "CREATE ROLE few LOGIN CONNECTION LIMIT 1", postgres_database)
    postgres_server.run("psql", "-qc", "GRANT ALL ON ALL TABLES IN SCHEMA public TO few", postgres_database)
    store = await open_store(postgres_server.url(postgres_database).replace("postgres@", "few@"), migrate=False)
    async with store._database.read() as c:
        with pytest.raises(StoreError, match="is away: the server takes no more connections"):
            await store.create_session("ann", id="conv_1", now=1)
        assert (await c.execute(text("SELECT count(*) FROM sessions"))).scalar() == 0
    assert (await store.create_session("ann", id="conv_1", now=1)).id == "conv_1"
    await store.close()
    postgres_server.run("psql", "-qc", "DROP OWNED BY few; DROP ROLE few", postgres_database)


async def test_behind_a_pooler_servers_make_a_database_and_share_it(postgres_server, pooler, open_store):
    name = postgres_server.create()
    with pytest.raises(ConfigError, match="share_database"):
        await open_store(pooler.url(name), migrate=True)
    stores = [await open_store(pooler.url(name), migrate=True, share=True) for _ in range(2)]
    for store in stores:
        await store.claim()
    ids = [f"conv_{n}" for n in range(20 * pooler.CONNECTIONS)]
    await asyncio.gather(*(stores[n % 2].create_session("ann", id=id, now=1) for n, id in enumerate(ids)))
    found = await asyncio.gather(*(stores[n % 2 - 1].session("ann", id) for n, id in enumerate(ids)))
    assert [session.id for session in found] == ids
    for store in stores:
        await store.close()
    postgres_server.drop(name)


def files_with(word, folder):
    return [file for file in folder.rglob("*") if file.is_file() and word.encode() in file.read_bytes()]


async def test_words_that_were_deleted_leave_its_tables_with_what_operations_md_says(
    postgres_server, postgres_database, open_store
):
    """A plain VACUUM moves rows and leaves bytes of what was there between them."""
    statement = re.search(r'psql \w+ -c "(VACUUM[^"]*)"', (ROOT / "docs/operations.md").read_text())[1]
    store = await open_store(postgres_server.url(postgres_database), migrate=False)
    async with store._database.read() as c:
        oid = (await c.execute(text("SELECT oid FROM pg_database WHERE datname = current_database()"))).scalar()
    tables = postgres_server.folder / "data" / "base" / str(oid)
    await store.create_session("ann", id="conv_1", title=WORD, metadata={"a": WORD}, now=1)
    await store.begin_turn(begin("resp_1", user(WORD), session_id="conv_1"))
    await store.journal([entry("resp_1", 0, WORD)])
    await store.finish_turn(end("resp_1", WORD, response={"id": WORD}))
    await conversation(store, "conv_2", "stays", "here")
    await store.delete_session("ann", "conv_1")
    postgres_server.run("psql", "-qc", "CHECKPOINT", postgres_database)
    assert files_with(WORD, tables)
    postgres_server.run("psql", "-qc", statement, "-c", "CHECKPOINT", postgres_database)
    assert files_with(WORD, tables) == []
    assert await texts(store, "conv_2") == ["stays", "here"]


# -- a standby that takes over


@contextmanager
def standby_of(server, folder):
    """A copy of a server that runs, which has all that is acknowledged there."""
    copy = postgres.Server(server.bin, folder, server.user)
    copies = [server.bin / "pg_basebackup", "-h", server.folder, "-U", "postgres", "-R", "-c", "fast", "-D"]
    made = subprocess.run([*copies, folder / "data"], user=server.user, cwd=folder, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    with postgres.serving(copy):
        server.run("psql", "-qc", "ALTER SYSTEM SET synchronous_standby_names = '*'", "postgres")
        server.run("psql", "-qc", "SELECT pg_reload_conf()", "postgres")
        yield copy


@pytest.mark.slow
async def test_a_standby_that_takes_over_has_what_was_acknowledged_and_the_server_goes_on_with_it(postgres_server):
    with postgres.folder() as one, postgres.folder() as other:
        server = postgres.make(one, postgres_server.bin)
        if server.user:
            shutil.chown(other, server.user)
        with postgres.serving(server), standby_of(server, other) as standby:
            url = (
                f"postgresql+asyncpg://postgres@/postgres?host={one}:5432&host={other}:5432"
                "&target_session_attrs=read-write"
            )
            store = await Store.open(url, migrate=True)
            await store.claim()
            for n in range(20):
                await conversation(store, f"conv_{n}", "hi", f"hello {n}")
            await store.begin_turn(begin("resp_1", user("hi")))
            await store.journal([entry("resp_1", 0, "hel")])
            os.kill(int((one / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            with pytest.raises(StoreError, match=r"is away|is read-only"):
                await store.create_session("ann", id="conv_x", now=1)
            standby.run("psql", "-qc", "SELECT pg_promote()", "postgres")
            for n in range(20):
                assert await texts(store, f"conv_{n}") == ["hi", f"hello {n}"]
            await store.begin_turn(begin("resp_2", user("hi")))
            assert {turn.id for turn in await store.active_turns("ann")} == {"resp_1", "resp_2"}
            await store.finish_turn(end("resp_2", "hello"))
            assert [turn.turn_id for turn in await store.recover(9)] == ["resp_1"]
            await store.close()
