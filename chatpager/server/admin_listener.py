"""A port of its own for what is for admins, beside the one for everybody."""

from __future__ import annotations

from aiohttp import web

from chatpager.errors import ConfigError
from chatpager.server.access import ADMIN_PORTS


async def listen_for_admins(runner: web.AppRunner, host: str, port: int) -> int:
    """From now on the application's other ports do not have what is for admins; this one has everything. To be called
    before those are opened. Returns the port, which the system chose for 0.

    Raises:
        ConfigError: it cannot be listened on.
    """
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problem = f"cannot listen on {host}: {reason}; choose another, or another --admin-host"
        raise ConfigError("admin_port", problem, value=port) from error
    assert site._server is not None, "it was started"
    ports = [int(one.getsockname()[1]) for one in site._server.sockets]  # type: ignore[attr-defined]
    runner.app[ADMIN_PORTS].update(ports)
    return ports[0]
