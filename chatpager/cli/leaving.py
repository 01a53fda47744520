"""The end of a command that has loaded torch."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """As the interpreter ends, but for taking apart what was imported: of torch and transformers that takes seconds,
    and nobody sees anything of it. ``code``: the exit code."""
    threading._shutdown()  # type: ignore[attr-defined]  # threads that are not daemons end first
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)
