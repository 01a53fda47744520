"""A server and clients in a network namespace whose loopback is taken away: ``unshare -Urn python THIS FOLDER``."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from websockets.asyncio.client import connect

from tests.processes import serving, spawn

MOST = 36.0
"""Seconds: a ping after 20, no pong for 10, what was not sent for 30, and some to look."""


def loopback(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def open_sockets(pid):
    """Connections that the process still has."""
    held = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    said = subprocess.run(["ss", "-tneH", "state", "established"], capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if {f"socket:[{ino}]" for ino in re.findall(r"ino:(\d+)", line)} & held]


async def begin(url, wish):
    """A socket on which a long answer has begun, and the answer's id."""
    ws = await connect(url.replace("http", "ws", 1) + "/v1/responses", ping_interval=None)
    wishes = {"max_output_tokens": 400, "ignore_eos": True, "chatpager": {"on_disconnect": wish}}
    await ws.send(json.dumps({"type": "response.create", "input": "Tell me a story.", **wishes}))
    created = json.loads(await ws.recv())
    return ws, created["response"]["id"]


async def main(folder):
    loopback("up")
    with serving(spawn, Path(folder)) as server:
        idle = await connect(server.url.replace("http", "ws", 1) + "/v1/responses", ping_interval=None)
        going, goes_on = await begin(server.url, "continue")
        ending, ends = await begin(server.url, "cancel")
        assert len(open_sockets(server.process.pid)) == 3
        loopback("down")
        start = time.monotonic()
        while left := open_sockets(server.process.pid):
            assert time.monotonic() - start < MOST, left
            await asyncio.sleep(0.25)
        print(f"seen after {time.monotonic() - start:.1f} s")
        loopback("up")
        status = {id: server.get(f"/v1/responses/{id}")["status"] for id in (goes_on, ends)}
        print(status)
        assert status[goes_on] in ("incomplete", "completed", "in_progress"), status
        assert server.stop() == 0
        for ws in (idle, going, ending):
            ws.transport.abort()


asyncio.run(main(sys.argv[1]))
