"""Clients that send, and then read nothing, and what they cost others."""

import asyncio
import json
import socket as sockets


def small_buffers(server):
    """So that a few thousand bytes are more than the client's side takes unread."""
    for site in server.runner.sites:
        for listening in site._server.sockets:
            listening._sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)


async def stalled(server, request):
    """A client that sends and then reads nothing."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", server.port))
    await loop.sock_sendall(raw, request)
    return raw


UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def masked(frame):
    """A client's text frame with an all-zero mask."""
    data = json.dumps(frame, ensure_ascii=False).encode()
    length = bytes([128 | len(data)]) if len(data) < 126 else bytes([254]) + len(data).to_bytes(2, "big")
    assert len(data) < 1 << 16
    return b"\x81" + length + b"\0\0\0\0" + data


def count_steps(monkeypatch, tasks):
    """How often the event loop runs one of the tasks: what others wait for, however busy the machine is."""
    counted, run = [], asyncio.Handle._run

    def looked_at(handle):
        if getattr(handle._callback, "__self__", None) in tasks:
            counted.append(handle)
        return run(handle)

    monkeypatch.setattr(asyncio.Handle, "_run", looked_at)
    return counted
