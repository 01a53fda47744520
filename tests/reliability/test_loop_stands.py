"""Connections over an event loop that stood for longer than their deadlines: who answered is not taken for dead."""

import asyncio
import json
import threading
import time

import pytest
from websockets.sync.client import connect

from chatpager.server import responses_socket
from chatpager.server.websocket import CONNECTIONS
from tests.serving import DEADLINE, GREEDY, eventually

HEARTBEAT = 0.8
"""Seconds until a ping; half as many until who does not answer is gone."""


def converse(url, opened, go_on):
    """A client with a thread that answers pings."""
    with connect(url, compression=None, open_timeout=DEADLINE) as ws:
        opened.set()
        assert go_on.wait(DEADLINE)
        ws.send(json.dumps({"type": "response.create", "input": "Hello", **GREEDY}))
        while (event := json.loads(ws.recv(DEADLINE)))["type"] != "response.incomplete":
            assert event["type"] != "error", event


@pytest.mark.slow
@pytest.mark.parametrize("pinged", [True, False])
async def test_who_answers_is_not_taken_for_dead_by_a_loop_that_stood(serve, monkeypatch, pinged):
    """Whether a ping was sent before, or is due meanwhile."""
    monkeypatch.setattr(responses_socket, "HEARTBEAT_SECONDS", HEARTBEAT)
    opened, go_on = threading.Event(), threading.Event()
    async with serve() as server:
        url = server.url.replace("http", "ws", 1) + "/v1/responses"
        client = asyncio.ensure_future(asyncio.to_thread(converse, url, opened, go_on))
        await asyncio.to_thread(opened.wait, DEADLINE)
        await eventually(lambda: server.app[CONNECTIONS])
        connections = set(server.app[CONNECTIONS])
        await asyncio.sleep((1.1 if pinged else 0.5) * HEARTBEAT)
        asyncio.get_running_loop().call_soon(time.sleep, 2.5 * HEARTBEAT)  # as whatever holds the loop up
        await asyncio.sleep(HEARTBEAT)
        assert server.app[CONNECTIONS] == connections
        go_on.set()
        await client
