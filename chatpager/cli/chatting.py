"""``chatpager chat``: a conversation in the terminal, or line by line from a pipe.

At a terminal Ctrl+C ends the answer that runs, or drops the line that is being typed; a second one on an empty line
ends the chat. From a pipe every line is a message; only answers go to standard output, what the model thinks goes to
standard error with the receipts, and the first refusal ends it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from chatpager.cli.interrupts import Waiting
from chatpager.cli.piped import PipedLines
from chatpager.cli.refusals import refusal
from chatpager.cli.showing import Showing, history, visible
from chatpager.client import AsyncClient, ClientError, Reply, Session
from chatpager.errors import ConfigError
from chatpager.program import program

HELP = "Type and press Enter. Ctrl+C stops an answer; Ctrl+D or /quit leaves; the session stays on the server."


def chat_in_terminal(
    url: str, session_id: str | None, api_key: str | None, again: str = "", *, thoughts: bool = True
) -> None:
    """Chat until there is no more input. ``again``: the flags with which the same server is found next time.
    ``thoughts``: whether they are shown.

    Raises:
        ConfigError: the address or the session's id cannot be one.
        ChatpagerError: the server is not there or does not know the session; from a pipe, also what it refuses.
    """
    if session_id == "":
        raise ConfigError("session", "must be the id of one (conv_...); leave --session out for a new one", value="")
    try:
        client = AsyncClient(url, api_key=api_key)
    except ValueError as error:
        raise ConfigError("url", str(error)) from error
    at_terminal = sys.stdin.isatty()
    # The loop runs only while there is something to wait for but the person, so that Ctrl+C means one thing at a time.
    with Waiting() as waiting, contextlib.ExitStack() as closing:
        waiting.run(client.__aenter__())
        closing.callback(lambda: waiting.finish(client.__aexit__(None, None, None)))
        talk: _Talk | None = None
        try:
            if session_id is None:
                waiting.run(client.sessions(limit=1))  # no server or a wrong key is told before anything is typed
                session = None
            else:
                session = waiting.run(client.session(session_id))
            talk = _Talk(waiting, client, session, at_terminal, again, thoughts=thoughts)
            talk.begin()
            for text in _typed(waiting) if at_terminal else _piped(waiting):
                talk.ask(text)
        except ClientError as error:
            if talk is not None:
                talk.end()
            raise refusal(error, has_key=bool(api_key)) from error
        talk.end()


def _typed(waiting: Waiting) -> Iterator[str]:
    try:
        from readline import get_line_buffer as unfinished  # input() edits lines and remembers them once it is there
    except ImportError:
        unfinished = str
    told = False
    while True:
        try:
            with waiting.reading():
                text = input("you ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if told and not unfinished():
                return
            told = True
            print("Ctrl+C again or Ctrl+D leaves")
            continue
        told = False
        if text.strip() in ("/quit", "/exit"):
            return
        if text.strip():
            yield text


def _piped(waiting: Waiting) -> Iterator[str]:
    lines = PipedLines()
    while True:
        with waiting.reading():
            line = lines.next()
        if not line:
            return
        if text := line.rstrip():
            yield text


class _Talk:
    """``session`` is None until a message of it is stored."""

    def __init__(
        self,
        waiting: Waiting,
        client: AsyncClient,
        session: Session | None,
        at_terminal: bool,
        again: str,
        *,
        thoughts: bool,
    ) -> None:
        self._waiting, self._client, self._session = waiting, client, session
        self._at_terminal, self._again, self._thoughts = at_terminal, again, thoughts
        self._answers = Console(highlight=False, soft_wrap=True)
        self._about = self._answers if at_terminal else Console(highlight=False, soft_wrap=True, stderr=True)

    def begin(self) -> None:
        if not self._at_terminal:
            return
        session = self._session
        self._about.print(Text(f"{f'session {session.id}' if session else 'new session'} - {HELP}", "dim"))
        if session:
            self._waiting.run(session.prefetch())
        for shown in history(self._waiting.run(session.items())) if session else ():
            self._about.print(shown)

    def ask(self, text: str) -> None:
        """One turn. Raises ClientError where it is refused and nobody is there to read why."""
        try:
            reply = self._waiting.run(self._answer(text))
            if reply.status == "failed" and not self._at_terminal:
                raise ClientError(reply.error or "the answer failed")
            self._about.print(Text(visible(account(reply)), "dim"))
        except KeyboardInterrupt:
            if not self._at_terminal:
                raise
            self._answers.print(Text("\nstopped", "dim"))
        except ClientError as error:
            if not self._at_terminal:
                raise
            self._about.print(Text(visible(str(error)), "red"))

    async def _answer(self, text: str) -> Reply:
        who = "assistant" if self._at_terminal else ""
        showing = Showing(self._answers, self._about, who=who, thoughts=self._thoughts)
        showing.begin()
        session = self._session or await self._client.session()
        answer = session.send(text)
        try:
            async with answer:
                async for event in answer.events():
                    showing.show(event)
        finally:
            if self._session is None:
                await self._keep(session, begun=answer.reply.id is not None)
        showing.end()
        return answer.reply

    async def _keep(self, session: Session, *, begun: bool) -> None:
        """A new session stays, unless the server says that it is empty: its first message was refused."""
        self._session = session
        with contextlib.suppress(ClientError):
            if not begun and not await session.items():
                self._session = None
                await self._client.request("DELETE", f"/v1/conversations/{session.id}")

    def end(self) -> None:
        if self._session is None:
            return
        self._about.print(Text(f"to go on: {program()} chat --session {self._session.id}{self._again}", "dim"))


def account(reply: Reply) -> str:
    """The receipt in one line."""
    parts = [f"cached {reply.cached_tokens}/{reply.input_tokens} tokens"]
    if reply.ttft_ms is not None:
        parts.append(f"{reply.ttft_ms:.0f} ms to first token")
    if reply.miss_reason:
        parts.append(reply.miss_reason)
    if reply.status != "completed":
        parts.append(reply.error or reply.status)
    return " - ".join(parts)
