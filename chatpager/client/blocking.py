"""``Client``: ``AsyncClient`` for programs without an event loop of their own.

::

    with Client("http://127.0.0.1:8000") as client:
        session = client.session()
        with session.send("My name is Ada.") as answer:
            for piece in answer:
                print(piece, end="")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self, TypeVar

from chatpager.client.answer import Answer
from chatpager.client.client import AsyncClient, Session
from chatpager.client.events import Event
from chatpager.client.refusals import not_open, opened_once
from chatpager.client.reply import Reply

T = TypeVar("T")
ENTERED = "with Client(...) as client:"


class Client:
    """As ``AsyncClient``, whose arguments it takes; its loop runs in a thread, and several threads may use it at once.
    All calls raise ClientError, outside of its block UsageError."""

    def __init__(self, url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="chatpager-client", daemon=True)
        self._gate = threading.Lock()
        """Held to begin a call, and to begin none any more."""
        self._opened = self._closed = False

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", "Client")

    def __enter__(self) -> Self:
        with self._gate:
            if self._opened:
                raise opened_once(ENTERED)
            self._opened = True
            self._thread.start()
        self.run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._gate:
            if self._closed or not self._opened:
                return
        try:
            self.run(self._client.__aexit__(kind, error, trace))
        finally:
            with self._gate:
                self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        """Calls that other threads still wait for end with the loop."""
        self._loop.run_forever()
        self._loop.run_until_complete(_end_all())
        self._loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of any call of the asynchronous client. Raises UsageError where the client is not open, or is left
        meanwhile."""
        with self._gate:
            if self._closed or not self._opened:
                call.close()
                raise not_open(ENTERED, closed=self._closed)
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise not_open(ENTERED, closed=True) from error
        except BaseException:
            future.cancel()
            raise

    def session(self, session_id: str | None = None, *, title: str | None = None) -> BlockingSession:
        """A stored session, or a new one."""
        return BlockingSession(self, self.run(self._client.session(session_id, title=title)))

    def sessions(self, limit: int = 50) -> list[dict[str, Any]]:
        """The sessions, the latest activity first, as the wire's conversation objects."""
        return self.run(self._client.sessions(limit))

    def respond(self, **body: Any) -> BlockingAnswer:
        """Ask outside a session; ``body`` are the fields of ``response.create``, such as ``input``."""
        return BlockingAnswer(self, self._client.respond(**body))

    def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One HTTP call."""
        return self.run(self._client.request(method, path, body))


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class BlockingSession:
    """As ``Session``."""

    def __init__(self, client: Client, session: Session) -> None:
        self._client, self._session = client, session
        self.id = session.id

    def __repr__(self) -> str:
        return repr(self._session)

    def send(self, text: str | list[dict[str, Any]], **options: Any) -> BlockingAnswer:
        return BlockingAnswer(self._client, self._session.send(text, **options))

    def ask(self, text: str | list[dict[str, Any]], **options: Any) -> Reply:
        return self._client.run(self._session.ask(text, **options))

    def items(self) -> list[dict[str, Any]]:
        return self._client.run(self._session.items())

    def history(self) -> list[tuple[str, str]]:
        return self._client.run(self._session.history())

    def fork(self, at: str | None = None) -> BlockingSession:
        return BlockingSession(self._client, self._client.run(self._session.fork(at)))

    def pin(self, ttl: float | None = None, *, tokens: int | None = None, soft: bool = False) -> dict[str, Any]:
        return self._client.run(self._session.pin(ttl, tokens=tokens, soft=soft))

    def unpin(self) -> None:
        self._client.run(self._session.unpin())

    def cache(self) -> dict[str, Any]:
        return self._client.run(self._session.cache())

    def delete(self) -> None:
        self._client.run(self._session.delete())

    def prefetch(self) -> int:
        return self._client.run(self._session.prefetch())

    def rewind(self, to: str) -> None:
        self._client.run(self._session.rewind(to))

    def compact(self, summary: str, *, keep: int = 1, role: str = "user") -> None:
        self._client.run(self._session.compact(summary, keep=keep, role=role))

    def hint(self, tool: str | None = None, *, eta: float | None = None) -> dict[str, Any]:
        return self._client.run(self._session.hint(tool, eta=eta))


class BlockingAnswer:
    """As ``Answer``: enter it, then iterate over its pieces of text, or over its ``events``."""

    def __init__(self, client: Client, answer: Answer) -> None:
        self._client, self._answer = client, answer
        self.reply = answer.reply

    def __repr__(self) -> str:
        return repr(self._answer)

    def __enter__(self) -> Self:
        self._client.run(self._answer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.run(self._answer.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[str]:
        return self._each(aiter(self._answer))

    def events(self) -> Iterator[Event]:
        """What happens, text and all else, as it happens; the last is ``Ended``."""
        return self._each(self._answer.events())

    def cancel(self) -> None:
        """Ask the server to end the answer."""
        self._client.run(self._answer.cancel())

    def _each(self, values: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T | None:
            return await anext(values, None)

        while (value := self._client.run(following())) is not None:
            yield value
