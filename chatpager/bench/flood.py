"""Three conversations, one pinned, one left as it is, one whose leases are let go; a flood of others; a return to each.

It runs against any server of ours and prints the receipts as they came: what was found on which tier, and why the rest
had to be computed. Afterwards the last one is forked after its second turn and both go on. Nothing is left behind:
every conversation that it made is deleted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from chatpager.bench import report
from chatpager.bench.text import fresh_text
from chatpager.client import AsyncClient, ClientError, Reply, Session
from chatpager.errors import ChatpagerError, ConfigError

SAMPLE_CHARACTERS = 600
AT_ONCE = 4
ANSWER_TOKENS = 32
"""At the most: what is measured is the prompt, and a small model may go on for long."""
BEAT_SECONDS = 20.0
"""Between two renewals of the pin: two may be late."""
QUESTIONS = ("What do you make of it?", "And what else?")
SOURCES = ("device", "host", "disk", "computed")


async def run(client: AsyncClient, *, tokens: int, factor: float, seed: int, out: str | None) -> dict[str, Any]:
    """Open, flood with ``factor`` times the tokens that the device has room for, return; ``tokens`` are those of a
    conversation's first message. Prints the receipts and returns them.

    Raises:
        ClientError: the server refused a turn, or is not there.
        ChatpagerError: a receipt does not add up, or the pinned conversation lost a block.
        ConfigError: a number makes no sense.
    """
    for name, value in (("tokens", tokens), ("factor", factor)):
        if not value > 0:
            raise ConfigError(name, "must be above 0", value=value)
    flood = Flood(client, random.Random(seed))
    try:
        result = await flood.run(tokens, factor)
        Console(soft_wrap=True).print(_table(result["turns"]))
    finally:
        print("deleting the conversations that were made")
        await flood.delete_all()
    await asyncio.to_thread(report.save, result, out)
    if faults := [fault for turn in result["turns"] for fault in _faults(turn, result["pinned_tokens"])]:
        raise ChatpagerError("; ".join(faults))
    return result


class Flood:
    def __init__(self, client: AsyncClient, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self._made: list[str] = []
        self._per_token = 1.0
        """Characters."""
        self._pinned_tokens = 0

    async def run(self, tokens: int, factor: float) -> dict[str, Any]:
        await self._measure()
        kv = (await self._client.request("GET", "/health"))["kv"]
        room = kv["blocks"] * kv["block_size"]
        kept = {name: await self._conversation(tokens) for name in ("pinned", "left", "let go")}
        await self._client.request("DELETE", f"/v1/conversations/{kept['let go'][0].id}/pin")
        async with self._pinned(kept["pinned"][0]):
            flooded = await self._flood(tokens, int(factor * room))
            turns = [
                _turn(name, await session.ask("I am back.", max_output_tokens=ANSWER_TOKENS))
                for name, (session, _) in kept.items()
            ]
        session, replies = kept["let go"]
        fork = await self._fork(session, replies[1])
        turns += [
            _turn("its fork at turn 2", await fork.ask("Another way.", max_output_tokens=ANSWER_TOKENS)),
            _turn("its origin", await session.ask("On.", max_output_tokens=ANSWER_TOKENS)),
        ]
        return {
            "what": "receipts of conversations that come back after a flood of others",
            "device_tokens": room,
            "flooded_tokens": flooded,
            "pinned_tokens": self._pinned_tokens,
            "turns": turns,
        }

    async def _measure(self) -> None:
        reply = await (await self._new()).ask(fresh_text(self._rng, SAMPLE_CHARACTERS), max_output_tokens=1)
        self._per_token = SAMPLE_CHARACTERS / reply.input_tokens

    async def _new(self) -> Session:
        session = await self._client.session(title="chatpager bench flood")
        self._made.append(session.id)
        return session

    async def _conversation(self, tokens: int) -> tuple[Session, list[Reply]]:
        """Three turns."""
        session = await self._new()
        said = (self._text(tokens), *QUESTIONS)
        return session, [await session.ask(text, max_output_tokens=ANSWER_TOKENS) for text in said]

    def _text(self, tokens: int) -> str:
        return fresh_text(self._rng, int(tokens * self._per_token))

    @asynccontextmanager
    async def _pinned(self, session: Session) -> AsyncIterator[None]:
        path = f"/v1/conversations/{session.id}/pin"
        self._pinned_tokens = (await self._client.request("PUT", path, {}))["tokens"]

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                await self._client.request("PUT", path, {})

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating  # raises what the server refused

    async def _flood(self, tokens: int, wanted: int) -> int:
        """Conversations of one turn, some at once, until their prompts have ``wanted`` tokens; how many they had."""
        flooded = 0
        with Progress() as progress:
            bar = progress.add_task("flooding", total=wanted)

            async def pour() -> None:
                nonlocal flooded
                while flooded < wanted:
                    reply = await (await self._new()).ask(self._text(tokens), max_output_tokens=1)
                    flooded += reply.input_tokens
                    progress.update(bar, completed=flooded)

            pouring = [asyncio.create_task(pour()) for _ in range(AT_ONCE)]
            try:
                await asyncio.gather(*pouring)
            finally:
                for task in pouring:
                    task.cancel()
                await asyncio.wait(pouring)
        return flooded

    async def _fork(self, session: Session, at: Reply) -> Session:
        path = f"/v1/conversations/{session.id}/fork"
        child = (await self._client.request("POST", path, {"at": at.id}))["id"]
        self._made.append(child)
        return await self._client.session(child)

    async def delete_all(self) -> None:
        """Also where some are refused; the first refusal is raised in the end."""
        calls = (self._client.request("DELETE", f"/v1/conversations/{session_id}") for session_id in self._made)
        if refusals := [r for r in await asyncio.gather(*calls, return_exceptions=True) if isinstance(r, ClientError)]:
            raise refusals[0]


def _turn(name: str, reply: Reply) -> dict[str, Any]:
    return {"conversation": name, "ttft_ms": reply.ttft_ms, "receipt": reply.receipt}


def _faults(turn: dict[str, Any], pinned: int) -> list[str]:
    """What must hold of any server of ours, where ``pinned`` tokens were granted."""
    name, receipt = turn["conversation"], turn["receipt"]
    faults = []
    if sum(receipt[f"{source}_tokens"] for source in SOURCES) != receipt["prompt_tokens"]:
        faults.append(f"the receipt of the conversation {name} does not add up")
    if name == "pinned" and (lost := pinned - receipt["device_tokens"]) > 0:
        faults.append(f"the pinned conversation lost {lost} tokens from the device")
    return faults


def _table(turns: Iterable[dict[str, Any]]) -> Table:
    table = Table("conversation", "prompt", *SOURCES, "first token", "missed", box=None)
    for turn in turns:
        receipt = turn["receipt"]
        counts = [f"{receipt[f'{source}_tokens']:,}" for source in SOURCES]
        first = f"{turn['ttft_ms']:.0f} ms" if turn["ttft_ms"] is not None else "-"
        table.add_row(turn["conversation"], f"{receipt['prompt_tokens']:,}", *counts, first, Text(_why(receipt)))
    return table


def _why(receipt: dict[str, Any]) -> str:
    reason = receipt["miss_reason"]
    if reason is None:
        return "nothing"
    if receipt.get("diverged_at") is not None:
        return f"{reason} at token {receipt['diverged_at']}"
    if evicted := receipt.get("evicted"):
        by = f" by {evicted['by']}" if evicted["by"] else ""
        return f"{reason} {evicted['seconds_ago']:.0f} s ago as {evicted['eviction_class']}{by}"
    return str(reason)
