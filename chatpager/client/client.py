"""``AsyncClient``: sessions that are opened, continued, listed and read; answers that stream.

::

    async with AsyncClient("http://127.0.0.1:8000") as client:
        session = await client.session()
        async with session.send("My name is Ada.") as reply:
            async for piece in reply:
                print(piece, end="")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from chatpager.client.reply import Reply
from chatpager.program import program

SUBPROTOCOL = Subprotocol("chatpager.v1")
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0
"""After which a server does not answer a call; answers that stream have no such limit."""
LEAVE_SECONDS = 5.0
"""How long an answer that is left early waits to hear its id, which it needs to be cancelled."""


class ClientError(Exception):
    """The server refused, or is not there. ``code`` is the wire's, None when there was no answer."""

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        self.code, self.status = code, status
        super().__init__(message)


class AsyncClient:
    """A server's address and key. One client may serve many sessions at once; each answer has its own socket.

    Raises:
        ValueError: ``url`` is no address of a server.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, api_key: str | None = None) -> None:
        if problem := _wrong_address(url):
            raise ValueError(f"{url!r} is no address of a server: {problem}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        self._http = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._http is not None
        await self._http.close()

    async def session(self, session_id: str | None = None, *, title: str | None = None) -> Session:
        """A stored session, or a new one. Raises ClientError (code ``conversation_not_found``)."""
        if session_id is None:
            body = {"metadata": {"title": title}} if title else {}
            conversation = await self.request("POST", "/v1/conversations", body)
        else:
            conversation = await self.request("GET", f"/v1/conversations/{quote(session_id, safe='')}")
        return Session(self, conversation["id"])

    async def sessions(self, limit: int = 50) -> list[dict[str, Any]]:
        """The sessions, the latest activity first, as the wire's conversation objects."""
        found: list[dict[str, Any]] = (await self.request("GET", f"/v1/conversations?limit={limit}"))["data"]
        return found

    async def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One HTTP call. Raises ClientError."""
        assert self._http is not None, "use the client as a context manager: async with AsyncClient(...)"
        try:
            async with self._http.request(method, self.url + path, json=body) as response:
                raw = await response.read()
                if response.status >= 400:
                    raise _refusal(raw, response.status)
                return msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ClientError(f"what answers at {self.url} is no chatpager server") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def connect(self) -> ClientConnection:
        """A Responses WebSocket. Raises ClientError."""
        address = "ws" + self.url.removeprefix("http") + "/v1/responses"
        try:
            return await connect(
                address,
                additional_headers=self._headers,
                subprotocols=[SUBPROTOCOL],
                max_size=None,
                compression=None,
                proxy=None,
            )
        except InvalidStatus as error:
            raise _refusal(bytes(error.response.body or b""), error.response.status_code) from error
        except (OSError, ConnectionClosed, InvalidHandshake, InvalidURI, TimeoutError, ValueError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ClientError:
        if isinstance(error, TimeoutError):
            return ClientError(f"the server at {self.url} does not answer: it is busy or hangs")
        return ClientError(f"no server at {self.url} ({error}); start one: {program()} demo")


class Session:
    """A conversation on the server."""

    def __init__(self, client: AsyncClient, session_id: str) -> None:
        self._client = client
        self.id = session_id

    def send(self, text: str | list[dict[str, Any]], **options: Any) -> Answer:
        """Ask, or send items such as a tool's results; ``options`` are fields of ``response.create``, such as
        ``temperature`` or ``tools``."""
        return Answer(self._client, {"conversation": self.id, "input": text, **options})

    async def ask(self, text: str | list[dict[str, Any]], **options: Any) -> Reply:
        """The whole answer at once. Raises ClientError."""
        async with self.send(text, **options) as reply:
            async for _ in reply:
                pass
        return reply.reply

    async def items(self) -> list[dict[str, Any]]:
        """Every message, oldest first, as the wire's items. Raises ClientError."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            path = f"/v1/conversations/{self.id}/items?order=asc&limit=100{after}"
            page = await self._client.request("GET", path)
            found += page["data"]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    async def prefetch(self) -> int:
        """Bring what the server keeps of the session in host memory or on disk to the device, before the next message;
        the number of tokens brought. Raises ClientError."""
        found = await self._client.request("POST", f"/v1/conversations/{self.id}/prefetch", {})
        return int(found["tokens"])

    async def rewind(self, to: str) -> None:
        """End with the answer ``to`` (a response's id) again; what came after it is left. Raises ClientError."""
        await self._client.request("POST", f"/v1/conversations/{self.id}/rewind", {"to": to})

    async def compact(self, summary: str, *, keep: int = 1, role: str = "user") -> None:
        """Put ``summary``, said by ``role``, in place of all but the last ``keep`` answers and what asked for them.
        Raises ClientError."""
        body = {"summary": summary, "keep": keep, "role": role}
        await self._client.request("POST", f"/v1/conversations/{self.id}/compact", body)

    async def hint(self, tool: str | None = None, *, eta: float | None = None) -> dict[str, Any]:
        """Say that the session goes on when ``tool`` is done, or in ``eta`` seconds, so that its prefix is kept until
        then; what was granted. Raises ClientError."""
        body = {name: value for name, value in (("tool", tool), ("eta", eta)) if value is not None}
        return await self._client.request("POST", f"/v1/conversations/{self.id}/hint", body)

    async def history(self) -> list[tuple[str, str]]:
        """(role, text) of every message; calls of tools and their results are ``items``."""
        said = [item for item in await self.items() if item["type"] == "message"]
        return [(i["role"], "".join(part["text"] for part in i["content"])) for i in said]


class Answer:
    """An answer that streams: enter it, then iterate over its pieces of text. Leaving early ends it."""

    def __init__(self, client: AsyncClient, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._socket: ClientConnection | None = None
        self._cancelling = False
        self.reply = Reply()

    async def __aenter__(self) -> Self:
        self._socket = await self._client.connect()
        await self._send({"type": "response.create", **self._body})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._socket is not None
        if not self.reply.done:
            await self._leave()
        await self._socket.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        assert self._socket is not None, "enter the answer first: async with session.send(...)"
        while not self.reply.done:
            if piece := await self._receive():
                yield piece

    async def cancel(self) -> None:
        """Ask the server to end the answer: at once, or as soon as it has begun."""
        self._cancelling = True
        if self.reply.id and not self.reply.done:
            await self._send({"type": "response.cancel", "response_id": self.reply.id})

    async def _leave(self) -> None:
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.cancel()
                while self.reply.id is None:
                    await self._receive()

    async def _receive(self) -> str:
        """Take one event; the text that it adds. Raises ClientError."""
        assert self._socket is not None
        begun = self.reply.id is not None
        try:
            event = msgspec.json.decode(await self._socket.recv())
        except ConnectionClosed as error:
            raise self._interrupted() from error
        if event["type"] == "error":
            if begun and self._cancelling:
                return ""  # the cancelling came too late; the answer's end is on its way
            if not begun:
                self.reply.refuse(event["error"]["message"])
            raise _refusal_of(event["error"], event["status"])
        piece = self.reply.feed(event)
        if self._cancelling and not begun and self.reply.id:
            await self.cancel()
        return piece

    async def _send(self, frame: dict[str, Any]) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(msgspec.json.encode(frame).decode())
        except ConnectionClosed as error:
            raise self._interrupted() from error

    def _interrupted(self) -> ClientError:
        self.reply.status = "interrupted"
        return ClientError("the connection ended before the answer; the session keeps what there is")


def _wrong_address(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at only now
    except ValueError as error:
        return str(error)
    if not url.startswith(("http://", "https://")):
        return "it must begin with http:// or https://"
    return None if parts.hostname else "it names no host"


def _refusal(raw: bytes, status: int) -> ClientError:
    try:
        return _refusal_of(msgspec.json.decode(raw)["error"], status)
    except (msgspec.DecodeError, KeyError, TypeError):
        return ClientError(f"the server answered {status}", status=status)


def _refusal_of(error: dict[str, Any], status: int) -> ClientError:
    return ClientError(error["message"], code=error.get("code"), status=status)
