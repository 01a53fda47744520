import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

import chatpager
from chatpager.errors import ConfigError, StoreError
from chatpager.store import Store, schema, tables
from chatpager.store.database import Database

CHECKOUT = Path(chatpager.__file__).parents[1]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request, tmp_path):
    """A database without a schema; SQLite's does not exist."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'sub' / 'chatpager.db'}"
    return request.getfixturevalue("postgres_url")


async def run(url, statement):
    database = Database(url)
    try:
        async with database.write("test") as c:
            return (
                (await c.execute(text(statement))).all() if "SELECT" in statement else await c.execute(text(statement))
            )
    finally:
        await database.close()


async def table_names(url):
    catalogue = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if url.startswith("sqlite")
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    return {row[0] for row in await run(url, catalogue)}


def test_migrations_make_what_the_models_say(url):
    command.check(schema.config(url))


async def test_an_upgrade_brings_an_empty_database_to_the_head_and_may_be_repeated(empty_url):
    for _ in range(2):
        await schema.upgrade(empty_url)
        assert await schema.current(empty_url) == schema.head()
    assert await table_names(empty_url) == {*tables.metadata.tables, "alembic_version"}


async def test_upgrades_that_come_at_once_do_no_harm(empty_url):
    await asyncio.gather(*(schema.upgrade(empty_url) for _ in range(4)))
    assert await schema.current(empty_url) == schema.head()


async def test_upgrades_of_two_processes_at_once_do_no_harm(empty_url):
    code = "import asyncio, sys; from chatpager.store import schema; asyncio.run(schema.upgrade(sys.argv[1]))"
    together = [await asyncio.create_subprocess_exec(sys.executable, "-c", code, empty_url) for _ in range(2)]
    assert [await process.wait() for process in together] == [0, 0]
    assert await schema.current(empty_url) == schema.head()


async def test_what_the_first_revision_holds_is_kept(empty_url, open_store):
    if empty_url.startswith("sqlite"):
        Database(empty_url).make_file()
    await asyncio.to_thread(command.upgrade, schema.config(empty_url), "0001")
    assert "api_keys" not in await table_names(empty_url)
    await run(empty_url, "INSERT INTO sessions VALUES ('conv_1', 'ann', NULL, NULL, 'Kept', '{}', '{}', 1, 1)")
    store = await open_store(empty_url, migrate=True)
    assert (await store.session("ann", "conv_1")).title == "Kept"
    assert await store.keys.every() == []


async def test_a_server_of_the_version_before_goes_on_beside_one_of_this(empty_url, open_store):
    """It writes rows as it knows them; of its live turns the next one knows that nobody of its own has them."""
    if empty_url.startswith("sqlite"):
        Database(empty_url).make_file()
    await asyncio.to_thread(command.upgrade, schema.config(empty_url), "0008")
    said = "INSERT INTO messages VALUES ('m', NULL, 'c', 'ann', 'user', '[]', NULL, NULL, 'completed', 1)"
    session = "INSERT INTO sessions VALUES ('conv_1', 'ann', 'm', NULL, '', '{}', '{}', 1, 1, NULL)"
    turn = (
        "INSERT INTO turns (id, tenant, session_id, input_tip, kind, status, model, vocab, request, created_at) "
        "VALUES ('resp_1', 'ann', 'conv_1', 'm', 'chat', 'in_progress', 'm', 'v', '{}', 1)"
    )
    for statement in (said, session):
        await run(empty_url, statement)
    store = await open_store(empty_url, migrate=True)
    await run(empty_url, turn)
    (ended,) = await store.recover(9)
    assert (ended.turn_id, ended.tip) == ("resp_1", "moved")
    assert (await store.session("ann", "conv_1")).owner_epoch == 1


async def test_an_upgrade_that_fails_halfway_leaves_nothing(empty_url):
    if empty_url.startswith("sqlite"):
        Database(empty_url).make_file()
    await run(empty_url, "CREATE TABLE turn_journal (x INTEGER)")
    with pytest.raises(StoreError, match="refused the statement"):
        await schema.upgrade(empty_url)
    assert await table_names(empty_url) == {"turn_journal"}


async def test_a_database_without_a_schema_is_not_opened_but_explained(postgres_url):
    assert await schema.current(postgres_url) is None
    with pytest.raises(StoreError, match=r"has no schema yet$"):
        await Store.open(postgres_url, migrate=False)


async def test_a_missing_file_is_not_made_but_explained(tmp_path):
    url = f"sqlite:///{tmp_path / 'sub' / 'chatpager.db'}"
    with pytest.raises(StoreError, match=r"does not exist$"):
        await Store.open(url, migrate=False)
    with pytest.raises(StoreError, match="does not exist"):
        await schema.current(url)
    assert not list(tmp_path.iterdir())


async def test_an_older_schema_is_not_opened_but_explained(url, monkeypatch):
    found = schema.head()
    monkeypatch.setattr(schema, "head", lambda: "9999")
    with pytest.raises(StoreError, match=rf"older chatpager \({found}\)$"):
        await Store.open(url, migrate=False)


@pytest.mark.parametrize("migrate", [True, False])
async def test_a_newer_database_is_refused_and_left_alone(url, migrate):
    await run(url, "UPDATE alembic_version SET version_num = 'from_the_future'")
    with pytest.raises(StoreError, match=r"newer chatpager .*from_the_future"):
        await Store.open(url, migrate=migrate)
    assert await schema.current(url) == "from_the_future"


async def test_opening_may_migrate(empty_url, open_store):
    store = await open_store(empty_url, migrate=True)
    assert (await store.create_session("ann", id="conv_1", now=1)).id == "conv_1"


async def test_a_database_that_a_server_has_is_not_migrated(empty_url):
    server = Database(empty_url)
    server.make_file()
    await server.connect()
    await server.claim()
    try:
        with pytest.raises(StoreError, match=r"in use by .*: stop it"):
            await Store.open(empty_url, migrate=True)
        assert await table_names(empty_url) == set()
    finally:
        await server.close()


async def test_who_migrates_a_database_has_claimed_it(empty_url, open_store):
    store = await open_store(empty_url, migrate=True)
    other = await open_store(empty_url, migrate=True)
    with pytest.raises(StoreError, match="in use"):
        await other.claim()
    await store.claim()


def alembic(*arguments, url=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("CHATPAGER_")}
    env |= {"CHATPAGER_DATABASE_URL": url} if url else {}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments], cwd=CHECKOUT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alembic_runs_from_a_checkout_with_the_url_of_our_settings(sqlite_url, tmp_path):
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    alembic("upgrade", "head", url=fresh)
    assert alembic("current", url=fresh) == alembic("-x", f"url={sqlite_url}", "current") == f"{schema.head()} (head)\n"
    assert "No new upgrade operations" in alembic("check", url=fresh)


def test_alembic_can_print_the_sql(tmp_path):
    for url in (f"sqlite:///{tmp_path / 'never.db'}", "postgresql://u@h/d"):
        assert "CREATE TABLE turn_journal" in alembic("upgrade", "head", "--sql", url=url)
    assert not (tmp_path / "never.db").exists()


def test_every_new_revision_begins_with_the_rules(tmp_path, sqlite_url):
    copy = shutil.copytree(schema.folder(), tmp_path / "migrations")
    made = schema.config(sqlite_url)
    made.set_main_option("script_location", str(copy))
    script = command.revision(made, "add a thing", autogenerate=True, rev_id="9999")
    written = Path(script.path).read_text()
    assert "before this one must still work with the schema after it" in written
    assert f"down_revision = '{schema.head()}'" in written
    compile(written, script.path, "exec")


def test_a_wheel_finds_its_migrations_inside_the_package(tmp_path):
    package = tmp_path / "site" / "chatpager"
    source = CHECKOUT / "chatpager"
    leaves = ("errors", "config", "config_sources", "config_values", "failpoints", "program")
    for part in ("__init__.py", *(f"{leaf}.py" for leaf in leaves), "store"):
        copy = shutil.copytree if (source / part).is_dir() else shutil.copy
        package.mkdir(parents=True, exist_ok=True)
        copy(source / part, package / part)
    shutil.copytree(CHECKOUT / "migrations", package / "store" / "migrations")
    code = "import asyncio, sys; from chatpager.store import schema; asyncio.run(schema.upgrade(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'x.db'}"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert asyncio.run(schema.current(f"sqlite:///{tmp_path / 'x.db'}")) == schema.head()


def test_an_installation_without_migrations_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "site" / "chatpager" / "store" / "schema.py"))
    with pytest.raises(StoreError, match="lacks its migrations"):
        schema.folder()


async def test_a_url_that_is_wrong_is_a_wrong_setting(tmp_path):
    for way in (schema.upgrade, schema.current):
        with pytest.raises(ConfigError):
            await way("mysql://h/d")
