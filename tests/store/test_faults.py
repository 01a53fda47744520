import sqlite3

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chatpager.errors import SessionBusy, StoreError
from chatpager.store.faults import lost_a_write, meaning, of_itself, translated


def sqlite(code):
    error = sqlite3.OperationalError("secret")
    error.sqlite_errorcode = code
    return OperationalError("SELECT secret", {"p": "secret"}, error)


def postgres(state):
    error = Exception("secret")
    error.sqlstate = state
    return DBAPIError("SELECT secret", {"p": "secret"}, error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite(sqlite3.SQLITE_BUSY), "locked"),
        (sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), "locked"),
        (sqlite(sqlite3.SQLITE_FULL), "full"),
        (sqlite(sqlite3.SQLITE_IOERR_SHMSIZE), "full"),
        (sqlite(sqlite3.SQLITE_READONLY_DBMOVED), "read-only"),
        (sqlite(sqlite3.SQLITE_IOERR_FSYNC), "disk failed"),
        (sqlite(sqlite3.SQLITE_CORRUPT), "damaged"),
        (sqlite(sqlite3.SQLITE_NOTADB), "not a SQLite database"),
        (sqlite(sqlite3.SQLITE_CANTOPEN), "cannot be opened"),
        (sqlite(sqlite3.SQLITE_ERROR), "refused the statement"),
        (postgres("53100"), "full"),
        (postgres("53300"), "away"),
        (postgres("53200"), "run out"),
        (postgres("57P01"), "away"),
        (postgres("57014"), "too long"),
        (postgres("08006"), "away"),
        (postgres("25006"), "read-only"),
        (postgres("55P03"), "is locked where this writes"),
        (postgres("40P01"), "collided"),
        (postgres("28P01"), "password"),
        (postgres("3D000"), "does not exist"),
        (postgres("42P01"), "lacks a table"),
        (postgres("XX000"), "refused the statement"),
        (asyncpg.InvalidPasswordError("secret"), "password"),
        (ConnectionRefusedError("secret"), "away"),
        (TimeoutError("secret"), "away"),
        (InterfaceError("SELECT secret", None, Exception("secret")), "away"),
        (DBAPIError("SELECT secret", None, Exception("secret"), connection_invalidated=True), "away"),
        (DBAPIError("SELECT secret", None, Exception("secret")), "refused the statement"),
        (PoolTimeout("secret"), "busy"),
    ],
    ids=str,
)
def test_a_drivers_error_says_its_cause_and_nothing_of_the_statement(error, said):
    with pytest.raises(StoreError, match=f"^the database at home .*{said}") as caught, translated("at home"):
        raise error
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is error


OF_ALL = [
    *map(sqlite, (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT)),
    *map(sqlite, (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB)),
    *map(postgres, ("08006", "25006", "28P01", "3D000", "42501", "42P01", "53100", "53200", "53300", "57P01")),
    ConnectionRefusedError("secret"),
    PoolTimeout("secret"),
]
OF_ONE = [
    *map(sqlite, (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR)),
    *map(postgres, ("23505", "40P01", "55P03", "57014", "XX000")),
    SessionBusy("no"),
    None,
]


@pytest.mark.parametrize(("error", "of_all"), [*((e, True) for e in OF_ALL), *((e, False) for e in OF_ONE)], ids=str)
def test_what_is_wrong_whatever_is_written_is_told_from_what_one_write_met(error, of_all):
    assert of_itself(error) == (meaning(error) if of_all else "")


@pytest.mark.parametrize("error", [SessionBusy("no"), KeyError("x"), AssertionError("1 < 0")])
def test_what_is_no_databases_error_passes(error):
    with pytest.raises(type(error)) as caught, translated("at home"):
        raise error
    assert caught.value is error
    assert meaning(error) is None


def test_after_a_failing_disk_nobody_knows_what_was_written():
    assert lost_a_write(sqlite(sqlite3.SQLITE_IOERR_FSYNC))
    assert not lost_a_write(sqlite(sqlite3.SQLITE_BUSY))
    assert not lost_a_write(sqlite(sqlite3.SQLITE_IOERR_SHMSIZE)), "a file that could not grow had no row in it"
    assert not lost_a_write(OSError("x"))
    assert not lost_a_write(None)
