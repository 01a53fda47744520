"""In every process that tests start, by its place in ``PYTHONPATH``: only this machine is asked, as in the tests' own.

A server would survive an error, and nobody hear of it: so it ends.
"""

import os
import sys

OURS = ("127.", "::1", "localhost", "0.0.0.0", "::")
EXIT_CODE = 97


def is_asked_elsewhere(event: str, args: tuple) -> bool:
    """Of an audit event, whether it is a connection to another machine."""
    return event == "socket.connect" and isinstance(args[1], tuple) and not str(args[1][0]).startswith(OURS)


def _end(event: str, args: tuple) -> None:
    if is_asked_elsewhere(event, args):
        os.write(2, f"a process of the tests asks {args[1]}: only this machine is asked\n".encode())
        os._exit(EXIT_CODE)


if __name__ == "sitecustomize":
    sys.addaudithook(_end)
