"""Every test that asks for ``url`` or ``store`` runs twice: on SQLite and on PostgreSQL; those of ``POOLED`` a third
time, on PostgreSQL behind a pooler, all but ``SHORTLY`` only where slow tests are run."""

import asyncio
import shutil

import pytest

from chatpager.store import Store, schema


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    file = tmp_path_factory.mktemp("template") / "chatpager.db"
    asyncio.run(schema.upgrade(f"sqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres_server):
    name = postgres_server.create()
    asyncio.run(schema.upgrade(postgres_server.url(name)))
    return name


@pytest.fixture
def sqlite_url(sqlite_template, tmp_path):
    """A database of its own with the schema at its head."""
    return f"sqlite+aiosqlite:///{shutil.copy(sqlite_template, tmp_path)}"


SHORTLY = "tests.store.test_ownership"
POOLED = {SHORTLY, *(f"tests.store.test_{name}" for name in ("journal", "live_turns", "sessions", "turns"))}


def pytest_generate_tests(metafunc):
    own = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "url" in metafunc.fixturenames and "url" not in own:
        kinds = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
        if metafunc.module.__name__ in POOLED:
            slow = [] if metafunc.module.__name__ == SHORTLY else [pytest.mark.slow]
            kinds.append(pytest.param("pooled", marks=[pytest.mark.postgres, *slow]))
        metafunc.parametrize("url", kinds, indirect=True)


@pytest.fixture
def url(request):
    """As ``sqlite_url``, and then the same on PostgreSQL, itself or behind a pooler."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server = request.getfixturevalue("postgres_server")
    reached = request.getfixturevalue("pooler") if request.param == "pooled" else server
    name = server.create(request.getfixturevalue("postgres_template"))
    yield reached.url(name)
    server.drop(name)


@pytest.fixture
async def open_store():
    """``Store.open``, but that every store it opened is closed in the end."""
    opened = []

    async def open(url, **arguments):
        opened.append(await Store.open(url, **arguments))
        return opened[-1]

    yield open
    for store in opened:
        await store.close()


@pytest.fixture
async def store(url, open_store):
    return await open_store(url, migrate=False)


@pytest.fixture
async def sqlite_store(sqlite_url, open_store):
    return await open_store(sqlite_url, migrate=False)
