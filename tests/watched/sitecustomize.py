"""In every process that tests start, by its place in ``PYTHONPATH``: only this machine is asked, as in the tests' own.

A server would survive an error, and nobody hear of it: so it ends.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

OURS = ("127.", "::1", "localhost", "0.0.0.0", "::")
EXIT_CODE = 97


def watch(refuse: Callable[[Any], None]) -> None:
    """What every connection to another machine is told to, before it is tried.

    Not by an audit hook: CPython 3.11 asks one while it installs a trace function, and the next thread that starts in
    between cannot install its own, and dies.
    """
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _watched(getattr(socket.socket, name), refuse))


def _watched(connect: Callable[[socket.socket, Any], Any], refuse: Callable[[Any], None]) -> Any:
    def ask(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and not str(address[0]).startswith(OURS):
            refuse(address)
        return connect(self, address)

    return ask


def _end(address: Any) -> None:
    os.write(2, f"a process of the tests asks {address}: only this machine is asked\n".encode())
    os._exit(EXIT_CODE)


if __name__ == "sitecustomize":
    watch(_end)
