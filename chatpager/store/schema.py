"""The schema's revisions: which one a database has, which one this code needs, and the way from one to the other.

The revisions are Alembic's. A wheel holds them inside this package; a checkout at its top, where ``alembic`` finds
them through ``[tool.alembic]`` of pyproject.toml.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from chatpager.errors import NotUpgraded, StoreError
from chatpager.store import address, faults
from chatpager.store.database import Database

_one_at_a_time = threading.Lock()
"""Alembic's ``op`` and ``context`` are global to the process."""


def folder() -> Path:
    """Where the revisions are."""
    here = Path(__file__).resolve()
    for place in (here.parent / "migrations", here.parents[2] / "migrations"):
        if (place / "env.py").is_file():
            return place
    raise StoreError("chatpager's installation lacks its migrations; install it again")


def config(url: str) -> Config:
    """Alembic's configuration for ``url``, independent of the working folder."""
    made = Config()
    made.set_main_option("script_location", str(folder()).replace("%", "%%"))
    made.attributes["url"] = url
    return made


def head() -> str:
    """The revision this code needs."""
    found = ScriptDirectory(str(folder())).get_current_head()
    assert found is not None, "no revision in the migrations folder"
    return found


async def current(url: str) -> str | None:
    """The revision a database has; None where it has no schema yet.

    Raises:
        ConfigError: the URL is wrong.
        StoreError: the database is away, or a SQLite file does not exist.
    """
    database = Database(url)
    try:
        await database.connect()
        return await revision(database)
    finally:
        await database.close()


async def revision(database: Database) -> str | None:
    """``current`` of a connected database."""
    async with database.read() as c:
        return await c.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


async def upgrade(url: str) -> None:
    """Make the database, where it is SQLite, and bring its schema to ``head()``, in one transaction. Asks for no claim:
    that is for ``Store.open``.

    Raises:
        ConfigError, StoreError: as ``current``; or the database is newer than this code.
    """
    database = Database(url)
    try:
        database.make_file()
        await database.connect()
        refuse_newer(await revision(database), database.shown)
    finally:
        await database.close()
    with faults.translated(address.place(database.url)):
        await asyncio.to_thread(_upgrade, url)


def _upgrade(url: str) -> None:
    # In a thread, because Alembic's environment brings its own event loop.
    with _one_at_a_time:
        command.upgrade(config(url), "head")


def refuse_newer(found: str | None, shown: str) -> None:
    """Raise StoreError where ``found`` is a revision this code has never heard of."""
    known = {script.revision for script in ScriptDirectory(str(folder())).walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"the database {shown} was written by a newer chatpager (revision {found}, this one knows {head()}); "
            "install that version again, or give another database"
        )


async def require_head(database: Database) -> None:
    """Raise NotUpgraded, or StoreError of a newer one, unless the schema of a connected database is the one this code
    needs."""
    found = await revision(database)
    refuse_newer(found, database.shown)
    if found != head():
        has = f"has the schema of an older chatpager ({found})" if found else "has no schema yet"
        raise NotUpgraded(f"the database {database.shown} {has}")
