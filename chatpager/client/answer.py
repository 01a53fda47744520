"""One answer over a WebSocket, and over as many others as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from chatpager.client.events import Event, Text, event_of
from chatpager.client.refusals import ClientError, refusal_of
from chatpager.client.reply import Reply

if TYPE_CHECKING:
    from chatpager.client.client import AsyncClient

LEAVE_SECONDS = 5.0
"""How long an answer that is left early waits to hear its id, which it needs to be cancelled."""


class Answer:
    """An answer that streams: enter it, then iterate over its pieces of text. Leaving early ends it, losing the
    connection does not."""

    def __init__(self, client: AsyncClient, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._socket: ClientConnection | None = None
        self._cancelling = False
        self._heard = -1
        """Number of the last event that came."""
        self._tries = 0
        """Connections that were tried since then."""
        self.reply = Reply()

    def __repr__(self) -> str:
        return f"<Answer {self.reply!r}>"

    async def __aenter__(self) -> Self:
        self._socket = await self._client.connect()
        try:
            await self._socket.send(_json({"type": "response.create", **self._body}))
        except ConnectionClosed as error:
            raise self._interrupted() from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._socket is not None
        if not self.reply.done:
            await self._leave()
        await self._socket.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if isinstance(event, Text):
                yield event.text

    async def events(self) -> AsyncIterator[Event]:
        """What happens, text and all else, as it happens; the last is ``Ended``."""
        assert self._socket is not None, "enter the answer first: async with session.send(...)"
        while not self.reply.done:
            if event := event_of(await self._receive()):
                yield event

    async def cancel(self) -> None:
        """Ask the server to end the answer: at once, or as soon as it has begun."""
        self._cancelling = True
        if not self.reply.id or self.reply.done:
            return
        assert self._socket is not None
        try:
            await self._socket.send(_json({"type": "response.cancel", "response_id": self.reply.id}))
        except ConnectionClosed:
            await self._client.request("POST", f"/v1/responses/{self.reply.id}/cancel")

    async def _leave(self) -> None:
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.cancel()
                while self.reply.id is None:
                    await self._receive()

    async def _receive(self) -> dict[str, Any] | None:
        """Take one of the wire's events into the reply; None where the connection was exchanged, or what came was only
        about that. Raises ClientError."""
        assert self._socket is not None
        begun = self.reply.id is not None
        try:
            event: dict[str, Any] = msgspec.json.decode(await self._socket.recv())
        except ConnectionClosed as error:
            await self._resume(error)
            return None
        if event["type"] == "chatpager.resumed" and not event["recovered"]:
            raise self._interrupted()
        if event["type"] == "error":
            if begun and self._cancelling:
                return None  # the cancelling came too late; the answer's end is on its way
            if not begun:
                self.reply.refuse(event["error"]["message"])
            raise refusal_of(event["error"], event["status"])
        if "sequence_number" in event:
            self._heard, self._tries = event["sequence_number"], 0
        self.reply.feed(event)
        if self._cancelling and not begun and self.reply.id:
            await self.cancel()
        return event

    async def _resume(self, lost: ConnectionClosed) -> None:
        """Go on over another connection with what this one did not bring. What has not begun cannot: it may be stored,
        and must not be sent twice.

        Raises:
            ClientError: the server does not come back, or does not tell the rest any more.
        """
        pauses = self._client.resume_pauses if self.reply.id else ()
        while self._tries < len(pauses):
            await asyncio.sleep(pauses[self._tries])
            self._tries += 1
            try:
                self._socket = await self._client.connect(response_id=self.reply.id or "", starting_after=self._heard)
            except ClientError as error:
                if error.status is not None and error.status < 500:
                    self._interrupted()
                    raise
                continue
            if self._cancelling:
                await self.cancel()
            return
        raise self._interrupted() from lost

    def _interrupted(self) -> ClientError:
        self.reply.status = "interrupted"
        return ClientError("the connection ended before the answer; the session keeps what there is")


def _json(frame: dict[str, Any]) -> str:
    return msgspec.json.encode(frame).decode()
