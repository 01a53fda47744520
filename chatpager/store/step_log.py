"""The journal in SQLite: a step is one row first, and the tokens of a turn come into a row of their own behind it.

Every turn's rows are a page of their own, so a step of a thousand turns wrote a thousand pages, 12 us of processor time
a token. Now a step is written as one row of no turn (``STEP``), which is a page for some sixty turns. Meanwhile the
turns whose tokens have lain in such rows for longest, a few of them at each step, get a row of all these tokens; a
step's row is deleted when that has happened to all that it holds. What is read of a turn is its rows and then the
steps.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice, takewhile
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy import literal_column, select
from sqlalchemy.dialects import sqlite

from chatpager.store import chain
from chatpager.store.ownership import IS_OWN
from chatpager.store.records import JournalEntry
from chatpager.store.tables import LIVE, STEP, turn_journal, turns

T = TypeVar("T")
_SQLITE = sqlite.dialect()
MOST_ROWS = 128
"""Of one statement: with four values each, fewer than the 999 that any SQLite takes."""
STEPS_BEHIND = 32
"""About so many steps lie as they came: each is read whole where a turn is deleted, or its server died."""

_packed = msgspec.msgpack.Encoder()


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of ``turn_journal``, and of what the row of a step holds."""

    turn_id: str
    first_index: int
    token_ids: bytes
    text: bytes

    @property
    def end(self) -> int:
        return self.first_index + len(self.token_ids) // chain.TOKEN_BYTES

    @property
    def next(self) -> int:
        """The first that a row behind this one may have: one without tokens, the last of its turn, has a number too."""
        return self.first_index + (len(self.token_ids) // chain.TOKEN_BYTES or 1)


_unpacked = msgspec.msgpack.Decoder(list[Row])


class _Behind(msgspec.Struct, gc=False):
    """A turn's tokens that have no row of their own, since step number ``since``."""

    since: int
    rows: list[Row]


class _Written(NamedTuple):
    number: int
    due: Sequence[str]
    """Turns that have rows now, or have ended."""
    ended: set[str]
    fresh: list[Row]
    done: int
    """How many of the server's own steps were deleted."""


class StepLog:
    """What one server writes to one database. ``write`` is told by ``committed`` that its transaction was; where it was
    not, nothing has happened."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._number = 0
        """Of the last step."""
        self._own: deque[int] = deque()
        """Numbers of the steps that lie as they came: between them and before there may be another server's, which it
        goes on with, or died with."""
        self._behind: dict[str, _Behind] = {}
        """By turn, those whose tokens have waited for longest first."""
        self._next: dict[str, int] = {}
        """By turn, what its next row may begin with: what comes again is left out."""
        self._live: set[str] = set()
        """Turns that were live when the database was in ``_state``, a number of SQLite's that others' writes change."""
        self._state = -1
        self._written: _Written | None = None

    def write(self, entries: Sequence[JournalEntry], c: sqlite3.Connection) -> set[str]:
        """The tokens of a step, in a transaction that has begun. Returns the turns that have ended, are gone or another
        server's: nothing is written of them. In few statements of many rows each, for a thread gives the interpreter
        away at every row that it steps to, and may wait for milliseconds until it has it again."""
        # Where others wrote, turns may have ended that say nothing more and have all their rows.
        silent = self._next.keys() - self._behind.keys() if self._look(c) else ()
        due = list(islice(self._behind, self._due()))
        ids = {entry.turn_id for entry in entries}
        ended = self._ended(ids.union(due, silent), c)
        fresh = [
            Row(e.turn_id, e.first_index, chain.pack(e.token_ids), e.text.encode())
            for e in entries
            if e.turn_id not in ended and e.first_index >= self._next.get(e.turn_id, 0)
        ]
        number = self._number + 1
        if fresh:
            c.execute(_INSERT_STEP, (STEP, number, _packed.encode(fresh), b""))
        rows = [row for id in due if id not in ended for row in _joined(self._behind[id].rows)]
        for some in _portions(rows):
            c.execute(_insert_of(len(some)), [value for row in some for value in msgspec.structs.astuple(row)])
        done = self._done(due, number)
        for first, last in _runs(done):
            c.execute(_DELETE, (STEP, first, last))
        self._written = _Written(number, due, ended, fresh, len(done))
        return ended & ids

    def committed(self) -> None:
        assert self._written is not None, "nothing was written"
        self._number, due, ended, fresh, done = self._written
        for _ in range(done):
            self._own.popleft()
        if fresh:
            self._own.append(self._number)
        for id in due:
            del self._behind[id]
        for id in ended:
            self._next.pop(id, None)
        for row in fresh:
            id = row.turn_id
            self._next[id] = row.next
            waiting = self._behind.get(id)
            if waiting is None:
                self._behind[id] = _Behind(self._number, [row])
            else:
                waiting.rows.append(row)

    def _due(self) -> int:
        """How many turns get a row in this step, so that each does about once in ``STEPS_BEHIND`` steps."""
        count = len(self._behind)
        if 0 < count < STEPS_BEHIND:
            return int(self._number % (STEPS_BEHIND // count) == 0)
        return -(-count // STEPS_BEHIND)

    def _done(self, due: Sequence[str], number: int) -> list[int]:
        """The steps of which nothing waits any more once those that are due have rows."""
        waits = next(islice(self._behind.values(), len(due), None), None) if due else None
        end = waits.since if waits else number
        return list(takewhile(lambda own: own < end, self._own)) if due else []

    def _look(self, c: sqlite3.Connection) -> bool:
        """Whether others have written since."""
        [state] = c.execute("PRAGMA data_version").fetchone()
        if state == self._state:
            return False
        self._live, self._state = set(), state
        self._number = max(self._number, int(c.execute(_LAST, (STEP,)).fetchone()[0]))
        return True

    def _ended(self, ids: set[str], c: sqlite3.Connection) -> set[str]:
        """Of these turns those that nothing may be written of. Asked is only what may have changed."""
        unsure = list(ids - self._live)
        asked = ((_ended_of(len(some)), [*some, self._owner]) for some in _portions(unsure))
        ended = {row[0] for statement, values in asked for row in c.execute(statement, values)}
        self._live.update(unsure)
        self._live -= ended
        return ended


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last of each run without a gap."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        first = runs.pop()[0] if runs and runs[-1][1] == number - 1 else number
        runs.append((first, number))
    return runs


def unpacked(steps: Iterable[bytes]) -> list[Row]:
    """What rows of steps hold, in their order."""
    return [row for step in steps for row in _unpacked.decode(step)]


def without(step: bytes, turn_ids: set[str]) -> bytes | None:
    """A step's row without these turns; None: it has nothing of them."""
    rows = _unpacked.decode(step)
    kept = [row for row in rows if row.turn_id not in turn_ids]
    return None if len(kept) == len(rows) else _packed.encode(kept)


def _joined(rows: Sequence[Row]) -> Iterator[Row]:
    """As few as there can be of one turn's: each goes as far as one follows the other. What has no tokens stays apart,
    or who reads could not tell whether it was read."""
    if (whole := _one(rows)).end == rows[-1].end and all(row.token_ids for row in rows):
        yield whole  # as they come: none begins before the one before it ends
        return
    run = [rows[0]]
    for row in rows[1:]:
        if row.first_index != run[-1].end or not row.token_ids:
            yield _one(run)
            run = []
        run.append(row)
    yield _one(run)


def _one(run: Sequence[Row]) -> Row:
    ids, text = b"".join([row.token_ids for row in run]), b"".join([row.text for row in run])
    return Row(run[0].turn_id, run[0].first_index, ids, text)


def _portions(of: Sequence[T]) -> Iterator[list[T]]:
    """The whole in order, in portions of so few sizes that SQLite has a statement ready for each."""
    start = 0
    while left := len(of) - start:
        size = min(MOST_ROWS, 1 << (left.bit_length() - 1))
        yield list(of[start : start + size])
        start += size


@cache
def _ended_of(count: int) -> str:
    """Of so many turns those that are not live, or not the owner's whose name follows."""
    live = select(turns.c.id).where(turns.c.id == literal_column("column1"), LIVE, IS_OWN).compile(dialect=_SQLITE)
    return f"SELECT column1 FROM (VALUES {', '.join(['(?)'] * count)}) WHERE NOT EXISTS ({live})"  # noqa: S608


@cache
def _insert_of(count: int, alternative: str = "OR IGNORE") -> str:
    names = ", ".join(column.name for column in turn_journal.columns)
    rows = ", ".join([f"({', '.join('?' * len(turn_journal.columns))})"] * count)
    return f"INSERT {alternative} INTO {turn_journal.name} ({names}) VALUES {rows}"  # noqa: S608


_INSERT_STEP = _insert_of(1, "")
"""Whatever lies there already is another step."""
_LAST = f"SELECT coalesce(max(first_index), 0) FROM {turn_journal.name} WHERE turn_id = ?"  # noqa: S608
_DELETE = f"DELETE FROM {turn_journal.name} WHERE turn_id = ? AND first_index BETWEEN ? AND ?"  # noqa: S608
