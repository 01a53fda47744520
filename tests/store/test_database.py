import asyncio
import os
import resource
import sqlite3
import stat
import sys
from asyncio.subprocess import PIPE

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from chatpager.errors import StoreError
from chatpager.store import Store, schema
from chatpager.store.address import missing_file
from chatpager.store.database import Database
from tests import postgres
from tests.descriptors import none_left
from tests.store.making import begin, conversation, count, end, entry, texts, user


async def pragma(store, statement):
    """On SQLite, on the connection that the next transaction will get."""

    async def read(c):
        result = await c.execute(text(f"PRAGMA {statement}"))
        return result.scalar() if result.returns_rows else None

    return await store._database.reading(read)


# -- what a commit promises


async def test_acknowledgements_are_synced_and_journalled_tokens_are_not(store):
    asked = {"sqlite": "PRAGMA synchronous", "postgresql": "SHOW synchronous_commit"}
    meant = {"sqlite": {True: 2, False: 1}, "postgresql": {True: "on", False: "off"}}
    for durable in (True, False, False, True):
        async with store._database.write("test", durable=durable) as c:
            found = (await c.execute(text(asked[c.dialect.name]))).scalar()
            assert found == meant[c.dialect.name][durable]


async def test_each_method_promises_what_it_says(store, monkeypatch):
    seen = {}
    write = Database.write

    def watched(self, name, tenant=None, *, durable=True, **more):
        seen[name] = durable
        return write(self, name, tenant, durable=durable, **more)

    writing = Database.writing

    async def written(self, name, work, *rest, **more):
        async def synced(c):
            if self.file:
                seen[name] = (await c.execute(text("PRAGMA synchronous"))).scalar_one() == 2
            return await work(c)

        return await writing(self, name, synced, *rest, **more)

    visit = Database.write_in_one_visit

    async def visited(self, name, work, committed):
        def synced(c):
            seen[name] = c.execute("PRAGMA synchronous").fetchone()[0] == 2
            return work(c)

        return await visit(self, name, synced, committed)

    monkeypatch.setattr(Database, "write", watched)
    monkeypatch.setattr(Database, "writing", written)
    monkeypatch.setattr(Database, "write_in_one_visit", visited)
    await conversation(store, "conv_1", "hi", "hello")
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.journal([entry("resp_1", 0, "h")])
    await store.recover(now=9)
    await store.delete_turn("ann", "resp_1")
    relaxed = ["journal"] if store._database.file else []  # PostgreSQL's own death must take no token that was seen
    assert [name for name, durable in seen.items() if not durable] == relaxed
    assert seen.keys() >= {"begin_turn", "finish_turn", "recover", "delete_turn"}


async def test_sqlite_keeps_a_write_ahead_log_and_minds_its_foreign_keys(sqlite_store):
    assert await pragma(sqlite_store, "journal_mode") == "wal"
    assert await pragma(sqlite_store, "foreign_keys") == 1
    assert await pragma(sqlite_store, "busy_timeout") == 5000


async def test_a_transaction_that_fails_changes_nothing(store):
    async def fail():
        async with store._database.write("test") as c:
            await c.execute(text("DELETE FROM alembic_version"))
            raise KeyError("after the statement")

    with pytest.raises(KeyError):
        await fail()
    async with store._database.read() as c:
        assert (await c.execute(text("SELECT count(*) FROM alembic_version"))).scalar() == 1


async def test_a_reader_sees_one_state_while_a_writer_goes_on(sqlite_store):
    await sqlite_store.create_session("ann", id="conv_1", now=1)
    query = text("SELECT count(*) FROM sessions")
    async with sqlite_store._database.read() as c:
        assert (await c.execute(query)).scalar() == 1
        await sqlite_store.create_session("ann", id="conv_2", now=1)
        assert (await c.execute(query)).scalar() == 1


def modes(folder):
    return stat.S_IMODE(folder.stat().st_mode), {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_the_file_and_its_folder_are_this_users_only(tmp_path, open_store):
    old = os.umask(0o022)
    try:
        folder = tmp_path / "deep" / "data"
        store = await open_store(f"sqlite:///{folder / 'chatpager.db'}", migrate=True)
        await store.create_session("ann", id="conv_1", now=1)
        assert modes(folder) == (0o700, {0o600})
    finally:
        os.umask(old)


# -- many at once


async def turn(store, n):
    id, said = f"conv_{n}", "".join(chr(97 + (n + i) % 26) for i in range(8))
    await store.create_session("ann", id=id, now=n)
    await store.begin_turn(begin(f"resp_{n}", user(f"hi {n}"), session_id=id))
    for i in range(0, 8, 2):
        await store.journal([entry(f"resp_{n}", i, said[i : i + 2])])
    assert (await store.journaled("ann", f"resp_{n}")).text == said
    assert (await store.finish_turn(end(f"resp_{n}", said))).tip == "moved"
    assert await texts(store, id) == [f"hi {n}", said]


COUNT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(database.execute("SELECT count(*) FROM sessions").fetchone()[0])
database.close()
"""


@pytest.mark.parametrize("migrated", ["by the first that opens it", "before", "before, and opened twice"])
async def test_the_log_outlives_other_processes_that_open_and_close_the_database(tmp_path, open_store, migrated):
    """Whoever closes a database last, by its locks, deletes its log: with what is written to it from then on."""
    file = tmp_path / "sub" / "fresh.db"
    if migrated.startswith("before"):
        await schema.upgrade(f"sqlite:///{file}")
    store = await open_store(f"sqlite:///{file}", migrate=True)
    if migrated.endswith("twice"):
        await open_store(f"sqlite:///{file}", migrate=True)
    for n in range(3):
        await store.create_session("ann", id=f"conv_{n}", now=n)
        elsewhere = await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT, file, stdout=PIPE)
        assert await elsewhere.communicate() == (b"%d\n" % (n + 1), None)


async def test_many_turns_at_once_do_not_lock_each_other_out(store):
    await asyncio.gather(*(turn(store, n) for n in range(32)))
    assert await count(store) == {"messages": 64, "sessions": 32, "turns": 32, "responses": 0, "turn_journal": 0}


async def test_writers_of_one_process_wait_in_line_and_not_for_a_lock(sqlite_url, open_store):
    store = await open_store(sqlite_url, migrate=False, busy_timeout_ms=0)
    await asyncio.gather(*(turn(store, n) for n in range(16)))


async def test_two_servers_on_one_database_wait_for_each_other(url, open_store):
    stores = [await open_store(url, migrate=False) for _ in range(2)]
    await asyncio.gather(*(turn(stores[n % 2], n) for n in range(24)))


@pytest.mark.postgres
async def test_only_deletions_and_counts_wait_for_a_tenants_other_writers(postgres_url, open_store):
    store = await open_store(postgres_url, migrate=True, busy_timeout_ms=100)
    first, last = await conversation(store, "conv_ann", "hi", "hello")
    await conversation(store, "conv_bob", "hi", "hello", tenant="bob")
    back = begin("resp_1", user("no"), session_id="conv_ann", parent_hash=first, expected_tip=last)
    async with store._database.write("test", "ann"):
        with pytest.raises(StoreError, match="is locked"):
            await store.delete_session("ann", "conv_ann")
        with pytest.raises(StoreError, match="is locked"):
            await store.delete_turn("ann", "resp_conv_ann_0")
        with pytest.raises(StoreError, match="is locked"):
            await store.begin_turn(back)
        with pytest.raises(StoreError, match="is locked"):
            await store.create_session("ann", id="conv_2", now=2, most=9)
        await store.create_session("ann", id="conv_3", now=2)
        await store.append_messages("ann", "conv_ann", [user("how?")], now=2)
        await store.delete_session("bob", "conv_bob")
    async with store._database.write("test", "ann", alone=True):
        with pytest.raises(StoreError, match="is locked"):
            await store.append_messages("ann", "conv_ann", [user("so?")], now=2)
    await store.delete_session("ann", "conv_ann")


async def test_deletions_between_turns_take_only_what_is_theirs(store):
    """All conversations share their first messages, and half of them go while the others grow."""

    async def one(n):
        await conversation(store, f"conv_{n}", "hi", "hello", f"how {n}?", f"so {n}")
        if n % 2:
            await store.delete_session("ann", f"conv_{n}")

    await asyncio.gather(*(one(n) for n in range(24)))
    for n in range(0, 24, 2):
        assert await texts(store, f"conv_{n}") == ["hi", "hello", f"how {n}?", f"so {n}"]
    assert (await count(store))["messages"] == 2 + 2 * 12


async def test_a_cancelled_call_leaves_the_store_whole(store):
    for n in range(40):
        task = asyncio.create_task(turn(store, n))
        for _ in range(n * 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await turn(store, 99)
    for done in await store.recover(now=9):
        assert done.tip in ("moved", "no_session")


# -- what can go wrong


async def test_a_writer_elsewhere_that_does_not_let_go_is_an_error_and_not_a_hang(url, open_store):
    store, other = await open_store(url, migrate=False, busy_timeout_ms=100), Database(url)
    await store.create_session("ann", id="conv_1", now=1)
    async with other.write("test") as c:
        await c.execute(text("UPDATE sessions SET title = 'mine'"))
        with pytest.raises(StoreError, match="is locked"):
            await store.append_messages("ann", "conv_1", [user("hi")], now=2)
        assert (await store.session("ann", "conv_1")).title == "", "reading goes on"
    await store.append_messages("ann", "conv_1", [user("hi")], now=2)
    assert await texts(store, "conv_1") == ["hi"]
    await other.close()


async def test_a_new_file_that_somebody_else_is_just_making_is_waited_for(tmp_path):
    url = f"sqlite:///{tmp_path / 'chatpager.db'}"
    database, impatient = Database(url), Database(url, busy_timeout_ms=1)
    database.make_file()
    # SQLite refuses at once, without its busy timeout, who would change the journal's mode beside this.
    with sqlite3.connect(tmp_path / "chatpager.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked"):
            await impatient.connect()
        asyncio.get_running_loop().call_later(0.1, other.execute, "ROLLBACK")
        await database.connect()
    other.close()
    await database.close()
    await impatient.close()


async def test_another_process_that_holds_the_lock_is_an_error_and_not_a_hang(sqlite_url, open_store):
    store = await open_store(sqlite_url, migrate=False, busy_timeout_ms=100)
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    file = sqlite_url.removeprefix("sqlite+aiosqlite:///")
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", code, file, stdin=PIPE, stdout=PIPE)
    assert await holder.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match="is locked"):
        await store.create_session("ann", id="conv_1", now=1)
    await holder.communicate(b"")
    await store.create_session("ann", id="conv_1", now=1)


async def test_a_full_disk_is_said_and_survived(sqlite_store):
    await sqlite_store.create_session("ann", id="conv_1", now=1)
    room = await pragma(sqlite_store, f"max_page_count={await pragma(sqlite_store, 'page_count')}")
    with pytest.raises(StoreError, match="is full"):
        await sqlite_store.append_messages("ann", "conv_1", [user("x" * 100_000)], now=2)
    await pragma(sqlite_store, f"max_page_count={room + 1000}")
    await sqlite_store.append_messages("ann", "conv_1", [user("x" * 100_000)], now=2)
    assert await pragma(sqlite_store, "integrity_check") == "ok"


async def test_a_database_that_may_only_be_read_is_said(url, open_store):
    store = await open_store(url, migrate=False)
    if url.startswith("sqlite"):
        await pragma(store, "query_only=ON")
    else:
        async with store._database.write("test") as c:
            name = (await c.execute(text("SELECT current_database()"))).scalar()
            await c.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        store = await open_store(url, migrate=False)
    with pytest.raises(StoreError, match="is read-only"):
        await store.create_session("ann", id="conv_1", now=1)


@pytest.mark.parametrize("gone", ["deleted", "replaced"])
async def test_a_file_that_went_away_acknowledges_nothing_more(sqlite_store, gone):
    """SQLite would go on writing where nobody will ever find it."""
    file = sqlite_store._database.file
    await sqlite_store.create_session("ann", id="conv_1", now=1)
    file.rename(file.with_suffix(".moved"))
    if gone == "replaced":
        file.touch()
    for _ in range(2):
        assert sqlite_store.unusable == "was moved or deleted"
        with pytest.raises(StoreError, match="was moved or deleted"):
            await sqlite_store.create_session("ann", id="conv_2", now=1)
    with pytest.raises(StoreError, match="was moved or deleted"):
        await sqlite_store.session("ann", "conv_1")


async def test_a_file_whose_place_cannot_be_looked_at_for_now_is_not_called_deleted(sqlite_store):
    folder = sqlite_store._database.file.parent
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.symlink_to(folder)  # ELOOP
    try:
        assert sqlite_store.unusable == ""
    finally:
        folder.unlink()
        aside.rename(folder)
    assert (await sqlite_store.create_session("ann", id="conv_1", now=1)).id == "conv_1"


async def test_without_a_descriptor_it_is_said_and_over_with_the_first_that_is_free(store):
    async with store._database.read():  # what is open already is in use
        with none_left(), pytest.raises(StoreError, match=r"cannot be opened|is away"):
            await store.create_session("ann", id="conv_1", now=1)
        assert store.unusable == "" and await store.list_sessions("ann", limit=1) == ([], False)
    assert (await store.create_session("ann", id="conv_1", now=1)).id == "conv_1"


async def test_a_disk_that_failed_once_is_not_trusted_again(sqlite_store, sqlite_url, open_store):
    await sqlite_store.create_session("ann", id="conv_1", now=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # no file may grow beyond: EFBIG
    try:
        with pytest.raises(StoreError, match="disk failed"):
            await sqlite_store.append_messages("ann", "conv_1", [user("x" * 1_000_000)], now=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(StoreError, match="lost a write"):
        await sqlite_store.create_session("ann", id="conv_2", now=1)
    reopened = await open_store(sqlite_url, migrate=False)
    assert await texts(reopened, "conv_1") == []


async def test_a_closed_store_says_so(store):
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.session("ann", "conv_1")
    with pytest.raises(StoreError, match="is closed"):
        await store.create_session("ann", id="conv_1", now=1)


async def test_what_is_no_database_is_said(tmp_path):
    (tmp_path / "note.txt").write_text("just a text, longer than the header of a database: " + "x" * 100)
    with pytest.raises(StoreError, match="is not a SQLite database"):
        await Store.open(f"sqlite:///{tmp_path / 'note.txt'}", migrate=False)


async def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made: "):
        await Store.open(f"sqlite:///{tmp_path / 'file' / 'x.db'}", migrate=True)


async def test_a_file_system_without_shared_memory_is_said(tmp_path):
    file = tmp_path / "x.db"
    file.touch()
    database = Database(f"sqlite:///{file}")
    database._engine = create_async_engine(f"sqlite+aiosqlite:///file:{file}?vfs=unix-dotfile&uri=true")
    with pytest.raises(StoreError, match="cannot share memory"):
        await database.connect()
    await database.close()


async def test_errors_hold_no_statement_and_no_words_of_users(store):
    await store.create_session("ann", id="conv_1", now=1)
    with pytest.raises(StoreError) as caught:
        await store.create_session("ann", id="conv_1", title="a very private title", now=1)
    assert "INSERT" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "private" not in repr(caught.value.__cause__) + str(caught.value.__cause__)


# -- PostgreSQL


@pytest.mark.parametrize("migrate", [True, False])
async def test_a_server_that_is_not_there_is_said_without_its_password(migrate):
    with pytest.raises(StoreError, match="is away") as caught:
        await Store.open("postgresql://ann:secret@127.0.0.1:1/chat", migrate=migrate)
    assert "postgresql+asyncpg://ann:***@127.0.0.1:1/chat" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.postgres
async def test_a_database_that_is_not_there_is_said(postgres_server):
    with pytest.raises(StoreError, match="does not exist on the server"):
        await Store.open(postgres_server.url("nowhere"), migrate=False)


@pytest.mark.postgres
async def test_connections_that_the_server_cut_are_made_again(postgres_url, open_store):
    store, other = await open_store(postgres_url, migrate=True), await open_store(postgres_url, migrate=True)
    await store.create_session("ann", id="conv_1", now=1)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    async with other._database.read() as c:
        assert (await c.execute(text(f"{cut} AND pid <> pg_backend_pid()"))).all()
    assert (await store.session("ann", "conv_1")).id == "conv_1", "an idle connection is noticed before it is used"
    with pytest.raises(StoreError, match="is away"):
        async with store._database.write("test") as c:
            await c.execute(text(cut))
    assert (await store.session("ann", "conv_1")).id == "conv_1"


@pytest.mark.postgres
async def test_a_server_that_stops_and_comes_back_is_survived(postgres_server, open_store):
    with postgres.folder() as folder:
        server = postgres.make(folder, postgres_server.bin)
        with postgres.serving(server):
            store = await open_store(server.url("postgres"), migrate=True)
            await store.create_session("ann", id="conv_1", now=1)
        with pytest.raises(StoreError, match="is away"):
            await store.create_session("ann", id="conv_2", now=1)
        with postgres.serving(server):
            assert (await store.session("ann", "conv_1")).id == "conv_1"
            await store.close()


async def test_a_place_that_cannot_be_looked_at_is_said_so(tmp_path):
    """As in a folder that this user may not search."""
    file = tmp_path / ("x" * 300) / "chatpager.db"
    url = f"sqlite+aiosqlite:///{file}"
    assert missing_file(url) is None, "nobody knows"
    for migrate in (True, False):
        with pytest.raises(StoreError, match=r"cannot be opened: File name too long"):
            await Store.open(url, migrate=migrate)
