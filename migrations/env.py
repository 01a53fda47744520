"""Alembic's environment. The URL: ``-x url=...``, or that of chatpager's own settings (``CHATPAGER_DATABASE_URL``)."""

import asyncio
from typing import Literal

from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from chatpager.config_sources import load
from chatpager.store import address
from chatpager.store.tables import Json, metadata

LOCK = 0x63686174  # any number that other users of the server do not take
PATIENCE = 60  # seconds for another process that upgrades the same SQLite file


def url() -> str:
    given = context.config.attributes.get("url") or context.get_x_argument(as_dictionary=True).get("url")
    return given or load().store.resolved_database_url()


def as_written(kind: str, obj: object, _: object) -> str | Literal[False]:
    """Columns of our own type are text to a revision, which imports nothing of ours."""
    return "sa.Text()" if kind == "type" and isinstance(obj, Json) else False


def run(connection: Connection) -> None:
    """All revisions in one transaction, one process at a time; a revision that waits for a lock gives up."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        render_as_batch=True,
        render_item=as_written,
    )
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    parsed = address.parse(url())
    sqlite = address.is_sqlite(parsed)
    engine = create_async_engine(
        parsed,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"isolation_level": None, "timeout": PATIENCE} if sqlite else address.for_asyncpg(parsed),
    )
    if sqlite:
        event.listen(engine.sync_engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def offline() -> None:
    """Print the SQL instead of running it (``alembic upgrade head --sql``)."""
    context.configure(url=address.parse(url()), target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
