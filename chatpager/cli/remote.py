"""What the commands that ask a running server share: its flags, its calls, and how they print."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from chatpager.cli.flags import filled_in
from chatpager.cli.refusals import refusal
from chatpager.errors import ConfigError

if TYPE_CHECKING:
    from chatpager.client import AsyncClient

Url = Annotated[
    str | None, typer.Option(envvar="CHATPAGER_URL", help="the server's address; default: from the settings")
]
Key = Annotated[str | None, typer.Option(help="the server's key; default: from the settings")]
KeyFile = Annotated[str | None, typer.Option(help="a file whose text is that key")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="settings file; default: ./chatpager.toml, then XDG")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
FLAGS = {"url": Url, "api_key": Key, "api_key_file": KeyFile, "config": ConfigFile}
T = TypeVar("T")
WIDE = 10_000
"""Columns of a table in a pipe: no line is too wide for a program, so nothing is cut."""


class Remote(NamedTuple):
    """A server as the flags name it. ``again``: those with which another command finds it, too."""

    url: str
    api_key: str | None
    again: str

    def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One HTTP call. Raises as ``call`` does."""
        return self.call(lambda client: client.request(method, path, body))

    def call(self, ask: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Raises ChatpagerError: the server refused, or is not there."""
        from chatpager.cli.interrupts import Waiting
        from chatpager.client import AsyncClient, ClientError

        async def ask_it(client: AsyncClient) -> T:
            async with client:
                return await ask(client)

        try:
            with Waiting() as waiting:
                return waiting.run(ask_it(AsyncClient(self.url, api_key=self.api_key)))
        except ValueError as error:
            raise ConfigError("url", str(error)) from error
        except ClientError as error:
            raise refusal(error, has_key=bool(self.api_key)) from error


def on_server(function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the function's ``server`` parameter (a ``Remote``) by the flags that name one."""
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in FLAGS.items()
    ]
    return filled_in(function, "server", flags, _remote)


def _remote(given: dict[str, Any]) -> Remote:
    from chatpager.config_sources import load

    keys = {name: given[name] for name in ("api_key", "api_key_file")}
    server, url = load(keys, file=given["config"]).server, given["url"]
    return Remote(url or address(server.host, server.port), server.api_key, f" --url {url}" if url else "")


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens there."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def one_line(text: str) -> str:
    """``text`` without what a terminal obeys, and without what ends a line or turns it round."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def at_terminal(text: str) -> str:
    """``text`` as ``one_line`` has it, but in lines and with its tabs."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def tell(found: object, words: str, *, as_json: bool) -> None:
    """What a command did: in full for a program, else in ``words``."""
    if as_json:
        print_json(found)
    else:
        typer.echo(words)


def print_json(found: object) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
