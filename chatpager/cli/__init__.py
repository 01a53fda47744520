"""The command line (floor 5). Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130
interrupted."""

from __future__ import annotations

import signal
import sys

from chatpager.cli.app import app
from chatpager.cli.leaving import leave
from chatpager.engine.thread_choice import spin_briefly
from chatpager.errors import ChatpagerError, ConfigError


def main() -> None:
    """Entry point of ``chatpager``: errors raised on purpose are one line, not a traceback."""
    spin_briefly()
    try:
        app(prog_name="chatpager")  # also as python -m: a shell completes this name
    except ConfigError as error:
        _fail(error, 2)
    except ChatpagerError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another one is no exception in what the interpreter does last
        sys.exit(130)


def _fail(error: ChatpagerError, code: int) -> None:
    print(f"chatpager: {error}", file=sys.stderr)
    if "torch" in sys.modules:
        leave(code)
    sys.exit(code)


__all__ = ["main"]
