"""``chatpager sessions``: the conversations of a running server."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.cli.reading import read_text
from chatpager.cli.refusals import Refusal
from chatpager.cli.remote import WIDE, AsJson, Remote, at_terminal, on_server, one_line, print_json, tell
from chatpager.errors import ConfigError, ConversationNotFound
from chatpager.program import program

sessions = typer.Typer(
    help="Conversations on a running server.", epilog="Example: chatpager sessions ls", no_args_is_help=True
)
Id = Annotated[str, typer.Argument(metavar="ID", help="conversation (conv_...)")]
Limit = Annotated[int, typer.Option(help="conversations at the most", min=1, max=100)]


class Form(StrEnum):
    JSON = "json"
    MARKDOWN = "md"


@sessions.command(epilog="Example: chatpager sessions ls --limit 5 --json")
@on_server
def ls(server: Remote, limit: Limit = 20, as_json: AsJson = False) -> None:
    """The conversations, the latest activity first."""
    _print_page(server, {"limit": limit}, as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions search 'rain in Paris'")
@on_server
def search(
    server: Remote,
    words: Annotated[str, typer.Argument(metavar="WORDS", help="as they stand in a title or in what was said")],
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """The conversations whose title or messages have these words, the latest activity first."""
    _print_page(server, {"limit": limit, "search": words}, as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions show conv_...")
@on_server
def show(server: Remote, session_id: Id, as_json: AsJson = False) -> None:
    """Where a conversation's prefix is, and what keeps it there."""
    found = server.request("GET", f"{_path(session_id)}/cache")
    if as_json:
        print_json(found)
        return
    where = ", ".join(f"{found[f'{tier}_tokens']:,} {tier}" for tier in ("device", "host", "disk"))
    typer.echo(f"{found['tokens']:,} tokens: {where}; {found['shared_tokens']:,} shared with others")
    for lease in found["leases"]:
        why = f": {lease['reason']}" if lease["reason"] else ""
        typer.echo(f"{lease['strength']} lease on {lease['tokens']:,} tokens for {lease['seconds_left']:.0f} s{why}")


@sessions.command(epilog="Example: chatpager sessions rename conv_... 'Holiday plans'")
@on_server
def rename(
    server: Remote,
    session_id: Id,
    title: Annotated[str, typer.Argument(help="its new title")],
    as_json: AsJson = False,
) -> None:
    """Give a conversation another title."""
    path = _path(session_id)
    metadata = server.request("GET", path)["metadata"]
    renamed = server.request("POST", path, {"metadata": {**metadata, "title": title}})
    tell(renamed, "renamed", as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions export conv_... --format md > talk.md")
@on_server
def export(
    server: Remote,
    session_id: Id,
    form: Annotated[Form, typer.Option("--format", help="json has all, md is for people")] = Form.JSON,
    as_json: AsJson = False,
) -> None:
    """Print all of a conversation, its answers with their usage and receipts."""
    if as_json and form is Form.MARKDOWN:
        raise typer.BadParameter("md is not for programs; send one of the two", param_hint="--format")
    path = f"{_path(session_id)}/export?format={form}"
    raw = server.call(lambda client: client.read("GET", path))
    _print_raw(raw if raw.endswith(b"\n") else raw + b"\n", sys.stdout)


@sessions.command(epilog="Example: chatpager sessions pin conv_... --ttl 3600")
@on_server
def pin(
    server: Remote,
    session_id: Id,
    ttl: Annotated[float | None, typer.Option(help="seconds, up to a day; default: a minute")] = None,
    tokens: Annotated[int | None, typer.Option(help="only so many from its beginning; default: all", min=1)] = None,
    soft: Annotated[bool, typer.Option(help="prefer it to others' instead of keeping it at any price")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep a conversation's prefix on the device."""
    check_seconds(ttl, "--ttl")
    wishes = {"ttl": ttl, "tokens": tokens}
    body = {"strength": "soft" if soft else "hard", **{k: v for k, v in wishes.items() if v is not None}}
    _tell_lease(server.request("PUT", f"{_path(session_id)}/pin", body), as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions unpin conv_...")
@on_server
def unpin(server: Remote, session_id: Id, as_json: AsJson = False) -> None:
    """End a conversation's leases."""
    tell(server.request("DELETE", f"{_path(session_id)}/pin"), "released", as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions hint conv_... --tool search")
@on_server
def hint(
    server: Remote,
    session_id: Id,
    tool: Annotated[str | None, typer.Option(help="the tool that it waits for")] = None,
    eta: Annotated[float | None, typer.Option(help="seconds until it goes on, where that is known")] = None,
    as_json: AsJson = False,
) -> None:
    """Say that a conversation waits for a tool: its prefix is kept softly until then."""
    check_seconds(eta, "--eta")
    if tool is None and eta is None:
        raise ConfigError("tool", "say what it waits for with --tool, or for how long with --eta")
    body = {name: value for name, value in (("tool", tool), ("eta", eta)) if value is not None}
    _tell_lease(server.request("POST", f"{_path(session_id)}/hint", body), as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions prefetch conv_...")
@on_server
def prefetch(server: Remote, session_id: Id, as_json: AsJson = False) -> None:
    """Bring a conversation back from host memory or disk before its next turn."""
    found = server.request("POST", f"{_path(session_id)}/prefetch", {})
    tell(found, f"{found['tokens']:,} tokens brought to the device", as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions fork conv_... --at resp_...")
@on_server
def fork(
    server: Remote,
    session_id: Id,
    at: Annotated[str | None, typer.Option(help="the response (resp_...) to fork after; default: the last")] = None,
    as_json: AsJson = False,
) -> None:
    """A new conversation that begins with this one's messages; nothing is copied."""
    child = server.request("POST", f"{_path(session_id)}/fork", {"at": at} if at else {})
    tell(child, child["id"], as_json=as_json)
    typer.echo(f"go on with it: {program()} chat --session {child['id']}{server.again}", err=True)


@sessions.command(epilog="Example: chatpager sessions rewind conv_... resp_...")
@on_server
def rewind(
    server: Remote,
    session_id: Id,
    to: Annotated[str, typer.Argument(metavar="RESPONSE", help="the answer (resp_...) to end with again")],
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier answer of a conversation; what came after it is left, not deleted."""
    tell(server.request("POST", f"{_path(session_id)}/rewind", {"to": to}), "rewound", as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions compact conv_... summary.txt --keep 2")
@on_server
def compact(
    server: Remote,
    session_id: Id,
    summary: Annotated[Path, typer.Argument(metavar="FILE", help="your summary, UTF-8; - is the input")],
    keep: Annotated[int, typer.Option(help="so many of its last answers stay as they are", min=0)] = 1,
    role: Annotated[str, typer.Option(help="who says the summary")] = "user",
    as_json: AsJson = False,
) -> None:
    """Put a summary in place of what is older than a conversation's last answers."""
    text = read_text(summary, "summary").strip()
    if not text:
        raise ConfigError("summary", "is empty; say what is to stand in place of the older part", value=str(summary))
    body = {"summary": text, "keep": keep, "role": role}
    tell(server.request("POST", f"{_path(session_id)}/compact", body), "compacted", as_json=as_json)


@sessions.command(epilog="Example: chatpager sessions rm conv_... conv_...")
@on_server
def rm(
    server: Remote,
    session_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="conversations (conv_...)")],
    as_json: AsJson = False,
) -> None:
    """Delete conversations: their messages, their answers, their blocks on the disk. One that is not there does not
    keep the others."""
    missing, deleted = False, []
    for session_id, path in {session_id: _path(session_id) for session_id in session_ids}.items():
        try:
            deleted.append(server.request("DELETE", path))
        except Refusal as refused:
            if refused.code != ConversationNotFound.code:
                raise
            missing = True
            typer.echo(f"chatpager: {refused}", err=True)
        else:
            if not as_json:
                typer.echo(f"deleted {session_id}")
    if as_json:
        print_json(deleted)
    if missing:
        raise typer.Exit(1)


sessions.command("list", hidden=True)(ls)
sessions.command("delete", hidden=True)(rm)


def _print_raw(raw: bytes, out: TextIO) -> None:
    """Byte for byte; but a terminal would obey what somebody said."""
    out.buffer.write(at_terminal(raw.decode(errors="replace")).encode() if out.isatty() else raw)
    out.buffer.flush()


def check_seconds(given: float | None, flag: str) -> None:
    if given is not None and not 0 < given < float("inf"):
        raise typer.BadParameter("a number of seconds above 0", param_hint=flag)


def _print_page(server: Remote, query: dict[str, Any], *, as_json: bool) -> None:
    found = server.request("GET", f"/v1/conversations?{urlencode(query)}")["data"]
    if as_json:
        print_json(found)
        return
    table = Table(box=None)
    table.add_column("conversation", no_wrap=True, min_width=max((len(one["id"]) for one in found), default=0))
    table.add_column("last activity", no_wrap=True, min_width=len("2026-01-01 00:00"))
    table.add_column("title", no_wrap=True, overflow="ellipsis")
    for conversation in found:
        facts = conversation["chatpager"]
        last = datetime.fromtimestamp(facts["updated_at"], UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        origin = f"  (of {facts['forked_from']})" if facts["forked_from"] else ""
        table.add_row(Text(conversation["id"]), last, Text(one_line(facts["title"] or "") + origin))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    if len(found) == query["limit"]:
        typer.echo(f"the latest {len(found)}; --limit (up to 100) shows more", err=True)


def _tell_lease(found: dict[str, Any], *, as_json: bool) -> None:
    words = f"{found['status']}: {found['strength']}, {found['tokens']:,} tokens for {found['expires_in']:.0f} s"
    tell(found, words, as_json=as_json)


def _path(session_id: str) -> str:
    if not session_id.strip():
        raise typer.BadParameter("is empty", param_hint="ID")
    return f"/v1/conversations/{quote(session_id, safe='')}"
