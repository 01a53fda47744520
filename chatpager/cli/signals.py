"""SIGINT and SIGTERM while a server is on its way: nobody is served yet, so it ends at once."""

from __future__ import annotations

import os
import signal

from rich.console import Console

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def give_up(console: Console, number: int) -> None:
    """A thread that fetches a model would not let the process end in any other way."""
    console.show_cursor()
    os._exit(128 + number)


def give_up_on_signals(console: Console) -> None:
    """Until an event loop that has its own answer runs."""
    for number in NUMBERS:
        signal.signal(number, lambda given, _: give_up(console, given))
