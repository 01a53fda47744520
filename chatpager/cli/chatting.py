"""``chatpager chat``: a conversation in the terminal."""

from __future__ import annotations

import asyncio

from rich.console import Console

from chatpager.client import AsyncClient, ClientError, Reply, Session

HELP = "Type and press Enter. Ctrl+C stops an answer; Ctrl+D or /quit leaves; the session stays on the server."


async def chat_in_terminal(url: str, session_id: str | None, api_key: str | None) -> None:
    console = Console(highlight=False)
    async with AsyncClient(url, api_key=api_key) as client:
        session = await client.session(session_id)
        console.print(f"[dim]session {session.id} - {HELP}[/dim]")
        for role, text in await session.history():
            console.print(f"[bold]{'you' if role == 'user' else role}[/bold] {text}", markup=True)
        while True:
            try:
                text = await asyncio.to_thread(console.input, "[bold]you[/bold] ")
            except (EOFError, KeyboardInterrupt):
                break
            if text.strip() in ("/quit", "/exit"):
                break
            if text.strip():
                await _answer(console, session, text)
        console.print(f"\n[dim]to go on: chatpager chat --session {session.id}[/dim]")


async def _answer(console: Console, session: Session, text: str) -> None:
    console.print("[bold]assistant[/bold] ", end="")
    try:
        async with session.send(text) as reply:
            async for piece in reply:
                console.print(piece, end="", markup=False)
        console.print()
        console.print(f"[dim]{account(reply.reply)}[/dim]")
    except ClientError as error:
        console.print(f"\n[red]{error}[/red]")


def account(reply: Reply) -> str:
    """The receipt in one line."""
    cached, total = reply.cached_tokens, reply.input_tokens
    parts = [f"cached {cached}/{total} tokens"]
    if reply.ttft_ms is not None:
        parts.append(f"{reply.ttft_ms:.0f} ms to first token")
    if reply.miss_reason:
        parts.append(reply.miss_reason)
    if reply.status != "completed":
        parts.append(reply.status)
    return " - ".join(parts)
