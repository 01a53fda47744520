"""The load of ``bench load --turns``: many conversations at once, turn after turn, each answer of a few tokens.

What is measured is what a turn takes beside its tokens: it is acknowledged, its history read, its answer stored.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import ClientError

from chatpager.bench.exposition import grown
from chatpager.bench.load_scenarios import Figures, Stage
from chatpager.bench.plain_socket import SocketLost
from chatpager.bench.talkers import Refused, Talker, connect_all, leave

TURNS_OF_ONE = 20
"""Turns of a conversation: behind them the client begins another one."""
TOKENS = 2


async def turns(stage: Stage, count: int, seconds: float) -> Figures:
    """``count`` clients that ask for ``seconds``, each as soon as it has its answer."""
    talkers = stage.talkers(count)
    await connect_all(talkers, stage.socket_url, stage.headers)
    before, cpu = await stage.look(), time.process_time()
    began = time.monotonic()
    took: list[float] = []
    await asyncio.gather(*(_talk(stage, talker, began + seconds, took) for talker in talkers))
    spent, client = time.monotonic() - began, time.process_time() - cpu
    after = await stage.look()
    await leave(talkers)
    took.sort()
    played = max(1, len(took))
    return {
        "clients": count,
        "turns": len(took),
        "turns_per_s": round(len(took) / spent, 1),
        "turn_p50_s": round(took[len(took) // 2], 4) if took else None,
        "turn_p99_s": round(took[len(took) * 99 // 100], 4) if took else None,
        "cpu_ms_per_turn": round(1000 * grown(before, after, "process_cpu_seconds_total") / played, 2),
        "writes_per_turn": round(grown(before, after, "store_transactions_total", 'kind="write"') / played, 2),
        "reads_per_turn": round(grown(before, after, "store_transactions_total", 'kind="read"') / played, 2),
        "client_cpu_share": round(client / spent, 3),
    }


async def _talk(stage: Stage, talker: Talker, until: float, took: list[float]) -> None:
    conversation = ""
    for number in range(1 << 30):
        if time.monotonic() > until:
            return
        asked = time.monotonic()
        try:
            if number % TURNS_OF_ONE == 0:
                async with stage.http.post(f"{stage.url}/v1/conversations", json={}) as answer:
                    answer.raise_for_status()
                    conversation = (await answer.json())["id"]
                asked = time.monotonic()
            async with asyncio.timeout(stage.patience):
                end = await talker.ask(
                    input=f"Turn {number}", conversation=conversation, max_output_tokens=TOKENS, temperature=0
                )
        except (SocketLost, Refused, ClientError, TimeoutError) as error:
            stage.faults.append(f"turn {number} of {conversation}: {error or 'no end'}")
            return
        if end["status"] == "failed":
            stage.faults.append(f"{end['id']} failed: {end['error']}")
            return
        took.append(time.monotonic() - asked)
        stage.ended.append(end["id"])
