"""Sockets on which nobody speaks end with their key or their login too. Each of these is looked up once for all the
sockets that it opened."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import structlog
from aiohttp import web

from chatpager.errors import InvalidAPIKey, StoreError
from chatpager.server.logins import Sender, caller_of
from chatpager.server.websocket import CONNECTIONS, Connection

LOOK_SECONDS = 2.5
"""Between two looks; a key may be believed for two seconds more."""

log = structlog.get_logger(__name__)


async def watch(app: web.Application) -> None:
    """Never returns."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await _look(app)


async def _look(app: web.Application) -> None:
    opened: dict[Sender, list[Connection]] = defaultdict(list)
    for connection in app[CONNECTIONS]:
        opened[connection.sender].append(connection)
    for sender, connections in opened.items():
        try:
            await caller_of(app, sender, used=False)
        except InvalidAPIKey as error:
            for connection in connections:
                connection.turn_out(error)
        except StoreError as error:
            log.debug("ws.keys_not_checked", reason=str(error))
            break
