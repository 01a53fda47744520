"""Where a database is: its URL, checked, and as it may be shown."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from chatpager.errors import ConfigError
from chatpager.program import python

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def parse(url: str) -> URL:
    """``url`` with its driver.

    Raises:
        ConfigError: it cannot be read, names a driver other than the two, or a SQLite database without a file.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Not shown: what cannot be read may hold a password anywhere.
        raise ConfigError("database_url", "cannot be read as a database URL") from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigError(
            "database_url", f"must begin with {' or '.join(sorted(set(_DRIVERS.values())))}", value=shown(parsed)
        )
    if driver == "postgresql+asyncpg" and find_spec("asyncpg") is None:
        install = f"{python()} -m pip install asyncpg"
        raise ConfigError("database_url", f"needs asyncpg: {install}", value=shown(parsed))
    parsed = parsed.set(drivername=driver)
    if is_sqlite(parsed) and file_of(parsed) is None:
        raise ConfigError(
            "database_url", "must name a plain file: what is kept in memory is not kept", value=shown(parsed)
        )
    return parsed


def shown(url: URL) -> str:
    """``url`` without its password, wherever it stands."""
    secrets = [key for key in url.query if "pass" in key.lower()]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


def place(url: URL) -> str:
    """Where a database is, for people: SQLite's file, or ``shown``."""
    file = file_of(url) if is_sqlite(url) else None
    return shown(url) if file is None else str(file)


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL, or None where it names no plain file: in memory, or SQLite's own ``file:`` form."""
    name = url.database or ":memory:"
    return None if name.startswith((":memory:", "file:")) else Path(name)


def for_asyncpg(url: URL) -> dict[str, Any]:
    """What asyncpg is told of a URL with ``prepared_statement_cache_size=0``, as a pooler needs that shares connections
    by transaction: nothing it prepares has a name, so that the next connection need not know it."""
    if url.query.get("prepared_statement_cache_size") != "0":
        return {}
    return {"statement_cache_size": 0, "prepared_statement_name_func": str}


def missing_file(url: str) -> Path | None:
    """The file of a SQLite database that is not there yet. Raises ConfigError, as ``parse``."""
    parsed = parse(url)
    file = file_of(parsed) if is_sqlite(parsed) else None
    try:
        return file if file and not file.exists() else None
    except OSError:  # who opens it says why that cannot be told
        return None
