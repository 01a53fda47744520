"""Clients of the Responses WebSocket by the thousand, every one of which writes down what it sends and hears."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from chatpager.bench.oracle import DELTA, ENDS
from chatpager.bench.plain_socket import PlainSocket, SocketLost
from chatpager.bench.transcript import Transcript

AT_ONCE = 256
"""Connections that are being opened at the same time."""
PORTS = 20_000
"""Sockets from one address of this machine: it has some 28,000 ports for them."""
_TEXT = b'"delta":"'
_DELTA = f'{{"type":"{DELTA}"'.encode()


class Refused(Exception):
    """The server answered with an error frame."""


class Talker:
    """One socket, which asks for one response after the other."""

    def __init__(self, number: int, transcript: Transcript) -> None:
        self.number = number
        self.deltas = 0
        self.characters = 0
        """Of their texts, each as long as JSON spells it."""
        self.response_id: str | None = None
        """Of the response that is being told."""
        self.heard = -1
        """Number of the last event of that response."""
        self.begun = asyncio.Event()
        """Set once text has come, or an end."""
        self._transcript = transcript
        self._socket: PlainSocket | None = None
        self._end: asyncio.Future[dict[str, Any]] | None = None

    async def connect(self, url: str, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        """``options`` as ``PlainSocket.connect``. Raises SocketLost."""
        self._socket = await PlainSocket.connect(url, self._hear, headers=headers, **options)
        self._socket.closed.add_done_callback(self._lost)

    def expect_resumed(self, response_id: str, after: int) -> asyncio.Future[dict[str, Any]]:
        """Before ``connect`` with an address that asks to resume: the response at its end."""
        self._transcript.sent(
            self.number, {"type": "response.resume", "response_id": response_id, "starting_after": after}
        )
        self.response_id, self.heard = response_id, after
        return self._wait()

    def ask(self, **wanted: Any) -> asyncio.Future[dict[str, Any]]:
        """Ask for a response; it at its end, or Refused or SocketLost. Raises SocketLost at once where it is lost."""
        if not self.connected:
            raise SocketLost("the connection has ended already")
        frame = {"type": "response.create", **wanted}
        self._transcript.sent(self.number, frame)
        self.response_id, self.heard = None, -1
        self.socket.send(msgspec.json.encode(frame).decode())
        return self._wait()

    @property
    def connected(self) -> bool:
        return self._socket is not None and not self._socket.closed.done()

    @property
    def socket(self) -> PlainSocket:
        assert self._socket is not None, "not connected"
        return self._socket

    def _wait(self) -> asyncio.Future[dict[str, Any]]:
        self._end = asyncio.get_running_loop().create_future()
        return self._end

    def _hear(self, payload: bytes) -> None:
        self._transcript.received(self.number, payload)
        if payload.startswith(_DELTA):
            self.deltas += 1
            self.characters += _characters(payload)
            self.heard += 1
            self.begun.set()
            return
        event = msgspec.json.decode(payload)
        kind = event["type"]
        self.heard += "sequence_number" in event
        if kind == "response.created":
            self.response_id = event["response"]["id"]
        elif self._end is not None and not self._end.done():
            if kind in ENDS:
                self.response_id = None
                self._end.set_result(event["response"])
                self.begun.set()
            elif kind == "error":
                self.begun.set()
                self._end.set_exception(Refused(f"{event['error']['code']}: {event['error']['message']}"))

    def _lost(self, closed: asyncio.Future[int | None]) -> None:
        self._transcript.lost(self.number, str(closed.result()))
        if self._end is not None and not self._end.done():
            self.begun.set()
            self._end.set_exception(SocketLost("the connection ended before the response did"))


def _characters(delta: bytes) -> int:
    """Of the event's text, found without reading it: what decodes twenty thousand a second leaves the server little."""
    start = delta.index(_TEXT) + len(_TEXT)
    return delta.index(b'","', start) - start


def source_of(url: str, number: int) -> str | None:
    """The address that this client connects from, so that no address runs out of ports; None: the usual one."""
    return f"127.0.0.{1 + number // PORTS}" if "//127.0.0.1:" in url else None


async def connect_all(talkers: Iterable[Talker], url: str, headers: Mapping[str, str] | None = None) -> None:
    """Open all their sockets, ``AT_ONCE`` at a time. Raises SocketLost: one of them was not opened, nor are the others
    then."""
    room = asyncio.Semaphore(AT_ONCE)

    async def connect(talker: Talker) -> None:
        async with room:
            await talker.connect(url, headers, source=source_of(url, talker.number))

    opening = [asyncio.ensure_future(connect(talker)) for talker in talkers]
    try:
        await asyncio.gather(*opening)
    finally:
        for one in opening:
            one.cancel()
        await asyncio.gather(*opening, return_exceptions=True)


async def leave(talkers: Iterable[Talker]) -> None:
    """Cut all their connections that there are."""
    left = [talker.socket for talker in talkers if talker.connected]
    for socket in left:
        socket.cut()
    await asyncio.gather(*(socket.closed for socket in left))


def raise_file_limit() -> int:
    """As many open files as this process may have; a server that it starts may have them too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
