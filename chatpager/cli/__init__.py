"""The command line (floor 5). Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 a model that cannot be
served, 130 interrupted."""

from __future__ import annotations

import sys

from chatpager.cli.app import app
from chatpager.engine.thread_choice import spin_briefly
from chatpager.errors import ChatpagerError, ConfigError, ModelLoadError


def main() -> None:
    """Entry point of ``chatpager``: errors raised on purpose are one line, not a traceback."""
    spin_briefly()
    try:
        app()
    except ConfigError as error:
        _fail(error, 2)
    except ModelLoadError as error:
        _fail(error, 3)
    except ChatpagerError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: ChatpagerError, code: int) -> None:
    print(f"chatpager: {error}", file=sys.stderr)
    sys.exit(code)


__all__ = ["main"]
