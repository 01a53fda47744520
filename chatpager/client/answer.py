"""One answer over a WebSocket, and over as many others as it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from chatpager.client.events import Event, Text, event_of
from chatpager.client.refusals import CONNECTION_LOST, ClientError, UsageError, refusal_of
from chatpager.client.reply import Reply

if TYPE_CHECKING:
    from chatpager.client.client import AsyncClient

SOCKET_TOO_OLD = "websocket_connection_limit_reached"
"""The socket is closed next; it says nothing of the answer."""
WITHDRAWN = "response_cancelled"
OURS = {"type": "what is sent is a response.create", "stream_id": "each answer has its own socket, so no lanes"}
"""Fields of the frame that no program sets, and why."""


class Answer:
    """An answer that streams: enter it, once, then iterate over its pieces of text. Leaving early ends it, unless its
    ``body`` has ``{"chatpager": {"on_disconnect": "continue"}}``; losing the connection does not.

    Raises:
        TypeError: ``body`` has something that the wire does not have.
        UsageError: what was not entered, or was left, is read, or what was entered is entered again.
    """

    def __init__(self, client: AsyncClient, body: dict[str, Any]) -> None:
        self._client = client
        self._asked = _create(body)
        wishes = body.get("chatpager")
        self._goes_on = isinstance(wishes, dict) and wishes.get("on_disconnect") == "continue"
        self._socket: ClientConnection | None = None
        """None before it is entered, and once it was left."""
        self._sent = False
        self._cancelling = False
        self._heard = -1
        """Number of the last event that came."""
        self._tries = 0
        """Connections that were tried since then."""
        self._found: list[dict[str, Any]] = []
        """Events made of the stored answer, where its own are not told any more."""
        self.reply = Reply()

    def __repr__(self) -> str:
        return f"<Answer {self.reply!r}>"

    async def __aenter__(self) -> Self:
        if self._sent:
            raise UsageError("this answer was asked for: another session.send(...) gives another")
        self._socket = await self._client.connect()
        self._sent = True
        try:
            await self._socket.send(self._asked)
        except ConnectionClosed:
            await self._receive()  # what the server said of it before it closed, or that it said nothing, is raised
        except BaseException:
            self._socket.transport.abort()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        socket = self._open()
        try:
            if not self._goes_on:
                with suppress(ClientError):  # of a connection that is lost and a server that is not there
                    await self.cancel()
        finally:
            self._socket = None
            if not self.reply.done:
                self.reply.status = "interrupted"
            await socket.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if isinstance(event, Text):
                yield event.text

    async def events(self) -> AsyncIterator[Event]:
        """What happens, text and all else, as it happens; the last is ``Ended``."""
        self._open()
        while not self.reply.done:
            if event := event_of(await self._receive()):
                yield event

    async def cancel(self) -> None:
        """Ask the server to end the answer: at once, or as soon as it has begun."""
        if self.reply.done:
            return
        socket = self._open()
        self._cancelling = True
        name = {"response_id": self.reply.id} if self.reply.id else {"stream_id": None}
        try:
            await socket.send(_json({"type": "response.cancel", **name}))
        except ConnectionClosed:
            if self.reply.id:
                await self._client.request("POST", f"/v1/responses/{self.reply.id}/cancel")

    async def _receive(self) -> dict[str, Any] | None:
        """Take one of the wire's events into the reply; None where the connection was exchanged, or what came was only
        about that. Raises ClientError."""
        begun = self.reply.id is not None
        try:
            event = self._found.pop(0) if self._found else msgspec.json.decode(await self._open().recv())
        except ConnectionClosed as error:
            await self._resume(error)
            return None
        if event["type"] == "chatpager.resumed" and not event["recovered"]:
            self._found = await self._stored()
            return None
        code = event["error"].get("code") if event["type"] == "error" else None
        if code == SOCKET_TOO_OLD:
            return None
        if code == WITHDRAWN and self._cancelling:  # before it had begun: there is no response object
            event = {"type": "response.incomplete", "response": {"status": "cancelled"}}
        if event["type"] == "error":
            if begun and self._cancelling:
                return None  # the cancelling came too late; the answer's end is on its way
            if not begun:
                self.reply.refuse(event["error"]["message"])
            raise refusal_of(event["error"], event["status"], event.get("retry_after_ms"))
        if "sequence_number" in event:
            self._heard, self._tries = event["sequence_number"], 0
        self.reply.feed(event)
        return event

    async def _resume(self, lost: ConnectionClosed) -> None:
        """Go on over another connection with what this one did not bring, not before a busy server wants to be asked
        again. What has not begun cannot: it may be stored, and must not be sent twice.

        Raises:
            ClientError: the server does not come back, or does not tell the rest any more.
        """
        pauses = self._client.resume_pauses if self.reply.id else ()
        told = 0.0
        while self._tries < len(pauses):
            await asyncio.sleep(max(pauses[self._tries], told))
            self._tries += 1
            try:
                self._socket = await self._client.connect(response_id=self.reply.id or "", starting_after=self._heard)
            except ClientError as error:
                told = error.retry_after or 0.0
                final = error.retry_after is None and error.status is not None and error.status < 500
                if final or isinstance(error, UsageError):
                    self._interrupted()
                    raise
                continue
            if self._cancelling:
                await self.cancel()
            return
        raise self._interrupted() from lost

    async def _stored(self) -> list[dict[str, Any]]:
        """The rest of an answer of which the server has no events, once it has ended: another server of the same
        database may still compute it. Raises ClientError: the server is away, or the answer is not stored."""
        path, pauses = f"/v1/responses/{self.reply.id}", list(self._client.resume_pauses)
        try:
            response = await self._fetched(path)
            while response["status"] == "in_progress" and pauses:
                await asyncio.sleep(pauses[0])
                pauses = pauses[1:] or pauses
                response = await self._fetched(path)
        except ClientError as error:
            raise self._interrupted() from error
        events = self.reply.rest_of(response)
        if not events:
            raise self._interrupted()
        return events

    async def _fetched(self, path: str) -> dict[str, Any]:
        """From a busy server not before it wants to be asked again, and so for as often as there are pauses. Raises
        ClientError."""
        for pause in self._client.resume_pauses:
            try:
                return await self._client.request("GET", path)
            except ClientError as error:
                if error.retry_after is None:
                    raise
                await asyncio.sleep(max(pause, error.retry_after))
        return await self._client.request("GET", path)

    def _open(self) -> ClientConnection:
        if self._socket is None:
            left = "its block was left; its text so far is answer.reply.text"
            raise UsageError(left if self._sent else "enter the answer first: async with session.send(...) as answer:")
        return self._socket

    def _interrupted(self) -> ClientError:
        self.reply.status = "interrupted"
        if self.reply.id:
            kept = f"the session keeps what there is: GET /v1/responses/{self.reply.id}, or session.items()"
        else:
            kept = "whether it began session.items() tells; with an idempotency_key it can be asked again, once or not"
        return ClientError(f"the connection ended before the answer; {kept}", code=CONNECTION_LOST)


def refuse_options(options: Mapping[str, Any], taken: Mapping[str, str]) -> None:
    """Raises TypeError for one that is ``taken``: its name, and what to do instead."""
    for name in options:
        if instead := taken.get(name):
            raise TypeError(f"{name} is no option here: {instead}")


def _create(body: dict[str, Any]) -> str:
    """Raises TypeError."""
    refuse_options(body, OURS)
    asked = body.get("input", "")
    kinds = {type(item).__name__ for item in asked if not isinstance(item, dict)} if isinstance(asked, list) else set()
    if kinds or not isinstance(asked, str | list):
        wrong = f"a list of {' and '.join(sorted(kinds))}" if kinds else type(asked).__name__
        raise TypeError(f"what is asked is a str or a list of dicts, such as a tool's results; not {wrong}")
    return _json({"type": "response.create", **body})


def _json(frame: dict[str, Any]) -> str:
    """Raises TypeError."""
    try:
        said = json.dumps(frame, ensure_ascii=False, allow_nan=False)  # which, unlike msgspec, makes no text of bytes
        said.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise TypeError(f"what is asked holds half of a surrogate pair, {half!a}: no character") from error
    except ValueError as error:
        raise TypeError(f"what is asked is not JSON: {error}") from error
    return said
