"""``AsyncClient``: sessions that are opened, continued, listed and read; answers that stream.

::

    async with AsyncClient("http://127.0.0.1:8000") as client:
        session = await client.session()
        async with session.send("My name is Ada.") as reply:
            async for piece in reply:
                print(piece, end="")
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import aiohttp
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from chatpager.client.answer import Answer, refuse_options
from chatpager.client.refusals import CONNECTION_LOST, ClientError, not_open, opened_once, refusal
from chatpager.client.reply import Reply
from chatpager.program import program

ENTERED = "async with AsyncClient(...) as client:"
SUBPROTOCOL = Subprotocol("chatpager.v1")
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0
"""After which a server does not answer a call; answers that stream have no such limit."""
RESUME_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each try to go on with an answer whose connection was lost."""

OF_SESSION = {
    "input": "what is asked is the first argument",
    "conversation": "it is the session's own: await client.session(id) opens another",
    "previous_response_id": "a session goes on from its end: fork(at) goes another way, rewind(to) goes back",
}
"""Fields of ``response.create`` that a session sets, and what to do instead."""


class AsyncClient:
    """A server's address and key. One client may serve many sessions at once; each answer has its own socket. An answer
    whose connection is lost goes on over another one, which is tried for after each of ``resume_pauses``, in seconds.
    It is opened once, by ``async with``; outside of that block its calls raise UsageError.

    Raises:
        TypeError: ``url`` is no text.
        ValueError: ``url`` is no address of a server.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        resume_pauses: Sequence[float] = RESUME_PAUSES,
    ) -> None:
        _check_text("url", url, "a server's address, such as 'http://127.0.0.1:8000'")
        if problem := _wrong_address(url):
            raise ValueError(f"{url!r} is no address of a server: {problem}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http: aiohttp.ClientSession | None = None
        self._closed = False
        self.resume_pauses = resume_pauses

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.url}{', with a key' if self._headers else ''}>"

    async def __aenter__(self) -> Self:
        if self._http is not None:
            raise opened_once(ENTERED)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        self._http = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._http is not None:
            await self._http.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._http is None or self._closed:
            raise not_open(ENTERED, closed=self._closed)
        return self._http

    async def session(self, session_id: str | None = None, *, title: str | None = None) -> Session:
        """A stored session, or a new one. Raises ClientError (code ``conversation_not_found``), TypeError (an id that
        is no text)."""
        if session_id is None:
            body = {"metadata": {"title": title}} if title else {}
            conversation = await self.request_once("/v1/conversations", body)
        else:
            _check_text("session_id", session_id, "a stored session's id, such as 'conv_...'")
            conversation = await self.request("GET", f"/v1/conversations/{quote(session_id, safe='')}")
        return Session(self, conversation["id"])

    async def sessions(self, limit: int = 50) -> list[dict[str, Any]]:
        """The sessions, the latest activity first, as the wire's conversation objects."""
        found: list[dict[str, Any]] = (await self.request("GET", f"/v1/conversations?limit={limit}"))["data"]
        return found

    def respond(self, **body: Any) -> Answer:
        """Ask outside a session; ``body`` are the fields of ``response.create``, such as ``input``."""
        return Answer(self, body)

    async def request_once(self, path: str, body: object) -> dict[str, Any]:
        """A POST with an idempotency key of its own: where the connection is lost it is sent again, and done once.
        Raises ClientError."""
        key = uuid4().hex
        try:
            return await self.request("POST", path, body, key=key)
        except ClientError as lost:
            if lost.code != CONNECTION_LOST or isinstance(lost.__cause__, TimeoutError):
                raise
            try:
                return await self.request("POST", path, body, key=key)
            except ClientError as error:
                if error.status is None:  # it still may have been done the first time
                    raise lost from error
                raise

    async def request(self, method: str, path: str, body: object = None, *, key: str | None = None) -> dict[str, Any]:
        """One HTTP call, with ``key`` as its ``Idempotency-Key``. Raises ClientError."""
        try:
            return msgspec.json.decode(await self.read(method, path, body, key=key), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ClientError(f"what answers at {self.url} is no chatpager server", code="not_chatpager") from error

    async def read(self, method: str, path: str, body: object = None, *, key: str | None = None) -> bytes:
        """One HTTP call, and its answer as it comes. Raises ClientError."""
        http = self._opened()
        headers = {"Idempotency-Key": key} if key else {}
        try:
            async with http.request(method, self.url + path, json=body, headers=headers) as response:
                raw = await response.read()
                if response.status >= 400:
                    raise refusal(raw, response.status, response.headers)
                return raw
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise self._unreachable(error) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost(error) from error

    async def connect(self, **query: str | int) -> ClientConnection:
        """A Responses WebSocket. Raises ClientError."""
        self._opened()
        address = "ws" + self.url.removeprefix("http") + "/v1/responses"
        address += f"?{urlencode(query)}" if query else ""
        try:
            return await connect(
                address,
                additional_headers=self._headers,
                subprotocols=[SUBPROTOCOL],
                max_size=None,
                max_queue=None,  # or a close would wait for what was not read
                compression=None,
                proxy=None,
            )
        except InvalidStatus as error:
            answer = error.response
            raise refusal(bytes(answer.body or b""), answer.status_code, answer.headers) from error
        except (OSError, ConnectionClosed, InvalidHandshake, InvalidURI, TimeoutError, ValueError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ClientError:
        if isinstance(error, TimeoutError):
            problem = f"the server at {self.url} does not answer: it is busy or hangs"
        else:
            problem = f"no server at {self.url} ({error}); start one: {program()} demo"
        return ClientError(problem, code="server_unreachable")

    def _lost(self, error: Exception) -> ClientError:
        if isinstance(error, TimeoutError):
            problem = f"the server at {self.url} does not answer: it is busy or hangs"
        else:
            problem = f"the connection to {self.url} was lost ({error})"
        return ClientError(
            f"{problem}; the call may have been carried out: look before it is repeated", code=CONNECTION_LOST
        )


class Session:
    """A conversation on the server."""

    def __init__(self, client: AsyncClient, session_id: str) -> None:
        self._client = client
        self.id = session_id

    def __repr__(self) -> str:
        return f"<Session {self.id} at {self._client.url}>"

    def send(self, text: str | list[dict[str, Any]], **options: Any) -> Answer:
        """Ask, or send items such as a tool's results; ``options`` are fields of ``response.create``, such as
        ``temperature`` or ``tools``. Raises TypeError: the wire has no such thing, or the session sets the
        option itself."""
        refuse_options(options, OF_SESSION)
        return Answer(self._client, {"conversation": self.id, "input": text, **options})

    async def ask(self, text: str | list[dict[str, Any]], **options: Any) -> Reply:
        """The whole answer at once; takes what ``send`` does. Raises ClientError, TypeError."""
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

    async def fork(self, at: str | None = None) -> Session:
        """A session that begins with this one's messages, up to the answer ``at`` (a response's id) or all of them.
        Raises ClientError."""
        body = {"at": at} if at else {}
        return Session(self._client, (await self._client.request_once(f"/v1/conversations/{self.id}/fork", body))["id"])

    async def pin(self, ttl: float | None = None, *, tokens: int | None = None, soft: bool = False) -> dict[str, Any]:
        """Keep the prefix, or the first ``tokens`` of it, on the device for ``ttl`` seconds (a minute if not said);
        what was granted. Raises ClientError."""
        wishes = {"ttl": ttl, "tokens": tokens, "strength": "soft" if soft else "hard"}
        body = {name: value for name, value in wishes.items() if value is not None}
        return await self._client.request("PUT", f"/v1/conversations/{self.id}/pin", body)

    async def unpin(self) -> None:
        """End the session's leases. Raises ClientError."""
        await self._client.request("DELETE", f"/v1/conversations/{self.id}/pin")

    async def cache(self) -> dict[str, Any]:
        """Where the session's tokens are, and its leases. Raises ClientError."""
        return await self._client.request("GET", f"/v1/conversations/{self.id}/cache")

    async def delete(self) -> None:
        """Delete all of it. Raises ClientError."""
        await self._client.request("DELETE", f"/v1/conversations/{self.id}")

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
        await self._client.request_once(f"/v1/conversations/{self.id}/compact", body)

    async def hint(self, tool: str | None = None, *, eta: float | None = None) -> dict[str, Any]:
        """Say that the session goes on when ``tool`` is done, or in ``eta`` seconds, so that its prefix is kept until
        then; what was granted. Raises ClientError."""
        body = {name: value for name, value in (("tool", tool), ("eta", eta)) if value is not None}
        return await self._client.request("POST", f"/v1/conversations/{self.id}/hint", body)

    async def history(self) -> list[tuple[str, str]]:
        """(role, text) of every message; calls of tools and their results are ``items``."""
        said = [item for item in await self.items() if item["type"] == "message"]
        return [(i["role"], "".join(part["text"] for part in i["content"])) for i in said]


def _check_text(name: str, value: object, takes: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, {takes}; not {type(value).__name__}")


def _wrong_address(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at only now
    except ValueError as error:
        return str(error)
    if not url.startswith(("http://", "https://")):
        return "it must begin with http:// or https://"
    return None if parts.hostname else "it names no host"
