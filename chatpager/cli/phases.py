"""What a start is doing while nothing else is said: a spinner at a terminal, elsewhere a line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.text import Text

log = structlog.get_logger("chatpager")


@contextmanager
def phase(console: Console, words: str, *, as_log: bool = False, spins: bool = True) -> Iterator[None]:
    """``as_log``: whoever reads standard error expects lines of the log there, and nothing else. ``spins``: whether
    nothing else draws on the terminal meanwhile, as a GPU's engine does, which has a bar."""
    if console.is_terminal and spins:
        with console.status(Text(words)):
            yield
        return
    if as_log:
        log.info("start", phase=words)
    else:
        print(f"chatpager: {words} ...", file=sys.stderr, flush=True)
    yield
