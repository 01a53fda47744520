"""Whether a server can listen where it is told to: tried before anything slow begins, and told in one way."""

from __future__ import annotations

import errno
import socket

from chatpager.config import ServerConfig
from chatpager.errors import ConfigError

OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES)


def cannot_listen(server: ServerConfig) -> ConfigError | None:
    """What is in the way, found by taking each address for a moment. None promises nothing: another may come first."""
    try:
        found = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        return listening_refused(error, server)
    failed = [why for family, *_, address in found if (why := _try(family, address))]
    # A name may stand for addresses that this machine lacks beside one that it has.
    told = next((why for why in failed if why.errno in OF_THE_PORT), failed[0] if len(failed) == len(found) else None)
    return listening_refused(told, server) if told else None


def _try(family: int, address: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def listening_refused(error: OSError | UnicodeError, server: ServerConfig) -> ConfigError:
    """UnicodeError: the host cannot be a name."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.errno in OF_THE_PORT:
        return ConfigError("port", f"cannot listen: {reason}; choose another with --port", value=server.port)
    problem = f"cannot listen: {reason}; give an address of this machine with --host"
    return ConfigError("host", problem, value=server.host)
