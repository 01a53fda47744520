"""Whether a process survives a grammar; see ``grammar_child`` for why one is needed.

llguidance hands no compiled grammar over, so what the child survived on its small stack is compiled again here, on
threads with ``STACK``: also the engine's, which walks it at every step.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from chatpager.engine import grammar_child
from chatpager.errors import Overloaded

log = logging.getLogger(__name__)

SECONDS = 5.0
"""Of processor time, for one grammar."""
STACK = 32 * grammar_child.STACK
"""Bytes of addresses, of which a thread gets memory as it uses them."""


class Probe:
    """At most one child, started for the first grammar and after each that it died of. Any thread may use it."""

    def __init__(self, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._closed = False

    def survives(self, vocabulary: tuple[str, int, list[int]], kind: str, text: str) -> bool:
        """Also a child that ends before it has begun survives nothing. ``vocabulary`` is the same each time.

        Raises:
            Overloaded: none can be started.
        """
        with self._lock:
            if self._closed:
                return False
            if self._child is None:
                self._child = _start(self._seconds)
                first = [json.dumps(vocabulary)]
            else:
                first = []
            if _ask(self._child, [*first, json.dumps([kind, text])]):
                return True
            code = _end(self._child)
            log.warning("a grammar ended the process that tries grammars: exit status %d", code)
            self._child = None
            return False

    def close(self) -> None:
        """End the child, also in the middle of a grammar, which it does not survive then."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:
            if self._child is not None:
                _end(self._child)
                self._child = None


@contextmanager
def deep_stacks() -> Iterator[None]:
    """Threads that start inside may walk whatever a child survived."""
    before = threading.stack_size(STACK)
    try:
        yield
    finally:
        threading.stack_size(before)


def _start(seconds: float) -> subprocess.Popen[str]:
    # -P: the modules beside it are not what libraries mean by these names.
    command = [sys.executable, "-P", grammar_child.__file__, str(seconds)]
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl+C is the server's to answer
        )
    except OSError as error:
        log.warning("no process can be started that tries grammars: %s", error)
        raise Overloaded("the grammar cannot be tried just now; try again later") from error


def _ask(child: subprocess.Popen[str], lines: list[str]) -> bool:
    assert child.stdin and child.stdout
    try:
        child.stdin.writelines(f"{line}\n" for line in lines)
        child.stdin.flush()
        return child.stdout.readline() == ".\n"
    except OSError:  # it died while this was written
        return False


def _end(child: subprocess.Popen[str]) -> int:
    child.kill()
    assert child.stdin and child.stdout
    child.stdout.close()
    with suppress(OSError):  # there may be something that nobody will read
        child.stdin.close()
    return child.wait()
