"""What is known of a database: whether it can be used at all, and what its last write said is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatpager.errors import StoreError
from chatpager.store import faults


class Condition:
    """``shown`` names the database in errors; ``file`` is SQLite's."""

    def __init__(self, shown: str, file: Path | None) -> None:
        self._shown, self._file = shown, file
        self._identity: tuple[int, int] | None = None
        self._unusable = ""
        self.refuses = ""
        """What the last write says is wrong with the database, where one of its kind would fail again."""
        self.claim_lost: Callable[[], str] = lambda: ""
        """Why the claim on it is no longer ours, or nothing."""

    def opened(self) -> None:
        """The file that is there now is the one from here on."""
        self._identity = self._identity_now()

    def closed(self) -> None:
        self._unusable = self._unusable or "is closed"

    @property
    def unusable(self) -> str:
        """Why nothing can be read or written any more before a restart, or nothing."""
        self._look_for_file()
        self._unusable = self._unusable or self.claim_lost()
        return self._unusable

    def check(self) -> None:
        """Raises StoreError: it is unusable."""
        self._refuse(self.unusable)

    def check_known(self) -> None:
        """``check`` without a look at the file, which may take a while."""
        self._refuse(self._unusable)

    def check_file(self) -> None:
        """``check`` for who only reads, from any thread."""
        self._look_for_file()
        self._refuse(self._unusable)

    def _refuse(self, unusable: str) -> None:
        if unusable:
            raise StoreError(f"the database {self._shown} {unusable}")

    def _look_for_file(self) -> None:
        if self._identity and not self._unusable:
            try:
                gone = self._identity_now() != self._identity
            except OSError:  # where it is cannot be looked at for now; what SQLite cannot do it says itself
                gone = False
            if gone:  # SQLite would go on writing into a file that no longer has a name
                self._unusable = "was moved or deleted"  # no more is said here: a write may have failed meanwhile

    def _identity_now(self) -> tuple[int, int] | None:
        """None of a file that is not there. Raises OSError where that cannot be told."""
        assert self._file is not None
        try:
            found = os.stat(self._file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def judging(self, of_lease: bool = False) -> Iterator[None]:
        """What a write's end says of the database, an error in words. That ``of_lease``, on a connection of its own and
        under a deadline, is no sign of the others."""
        try:
            with faults.translated(self._shown):
                yield
        except StoreError as error:
            if faults.lost_a_write(error.__cause__):
                self._unusable = "lost a write when its disk failed; restart to see what it kept"
            self.refuses = faults.of_itself(error.__cause__) or self.refuses
            raise
        if not of_lease or self.refuses == faults.AWAY:
            self.refuses = ""

    def judged(self, end: Any) -> Any:
        """A write's end, in words where it is an exception."""
        try:
            with self.judging():
                if isinstance(end, Exception):
                    raise end
        except Exception as error:
            return error
        return end
