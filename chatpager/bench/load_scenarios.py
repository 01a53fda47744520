"""The loads of ``bench load``: idle sockets, streams, a storm of resumes, readers that do not read, a soak."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import ClientSession

from chatpager.bench.exposition import Samples, grown, parse, quantile, total
from chatpager.bench.load_goals import beyond_the_keyring
from chatpager.bench.plain_socket import SocketLost
from chatpager.bench.talkers import AT_ONCE, Talker, connect_all, leave, source_of
from chatpager.bench.text import fresh_text
from chatpager.bench.transcript import Transcript
from chatpager.errors import ChatpagerError

PROMPT_CHARACTERS = 120
TOLD_AGAIN = 100
"""Responses whose events the storm asks for, each of about this many tokens."""
BULK = {str(i): "x" * 512 for i in range(16)}
"""Metadata of 8 KiB, which comes back in every response object."""
STALLED_ASKS = 30
SETTLE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""For which nothing may happen of what is waited for."""
SOCKSTAT = Path("/proc/net/sockstat")
PAGE = 4096
Figures = dict[str, Any]
T = TypeVar("T")


@dataclass
class Stage:
    """Where the loads are played. ``numbers`` of clients go on from load to load."""

    url: str
    headers: Mapping[str, str]
    http: ClientSession
    transcript: Transcript
    rng: random.Random
    used: int = 0
    ended: list[str] = field(default_factory=list)
    """Responses whose end was heard."""
    others: float = 0.0
    """Sockets of the server that are not ours."""
    faults: list[str] = field(default_factory=list)
    patience: float = PATIENCE_SECONDS

    @property
    def socket_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/responses"

    def talkers(self, count: int) -> list[Talker]:
        first, self.used = self.used, self.used + count
        return [Talker(first + i, self.transcript) for i in range(count)]

    async def look(self) -> Samples:
        async with self.http.get(f"{self.url}/metrics") as answer:
            answer.raise_for_status()
            return parse(await answer.text())

    async def settled(self, sockets: float) -> Samples:
        """Once the server has so many sockets of ours. Raises ChatpagerError where it does not come to that."""
        until = time.monotonic() + self.patience
        while (found := self.sockets(samples := await self.look())) != sockets:
            if time.monotonic() > until:
                raise ChatpagerError(f"the server has {found:g} sockets of ours where {sockets:g} are due")
            await asyncio.sleep(0.05)
        return samples

    def sockets(self, samples: Samples) -> float:
        return total(samples, "ws_connections") - self.others

    async def outcome(self, waiting: Iterable[Awaitable[T]], talkers: Sequence[Talker], what: str) -> list[T]:
        """Of all that is waited for, as it comes. Where the server ends or refuses it, or says nothing to all of these
        talkers for as long as we have patience, that is a fault."""
        tasks = [asyncio.ensure_future(one) for one in waiting]
        left = set(tasks)
        while left:
            heard = sum(talker.deltas for talker in talkers)
            done, left = await asyncio.wait(left, timeout=self.patience)
            if not done and heard == sum(talker.deltas for talker in talkers):
                self.faults.append(f"{len(left)} of {len(tasks)} {what} did not come")
                break
        for task in left:
            task.cancel()
        came = await asyncio.gather(*tasks, return_exceptions=True)
        lost = [one for one in came if isinstance(one, Exception)]
        self.faults += [f"{len(lost)} of {len(tasks)} {what}: {lost[0]}"] if lost else []
        return [one for one in came if not isinstance(one, BaseException)]

    def prompt(self) -> str:
        return fresh_text(self.rng, PROMPT_CHARACTERS)


async def idle(stage: Stage, count: int, seconds: float) -> Figures:
    """Sockets on which nobody says anything."""
    await leave_again(stage, max(1, count // 10))  # what a first connection costs is no matter of their number
    before = await stage.settled(0)
    talkers = stage.talkers(count)
    began = time.monotonic()
    await connect_all(talkers, stage.socket_url, stage.headers)
    took = time.monotonic() - began
    after = await stage.settled(count)
    await asyncio.sleep(SETTLE_SECONDS)
    held = await stage.look()
    await asyncio.sleep(seconds)
    later = await stage.look()
    memory = total(held, "process_resident_memory_bytes") - total(before, "process_resident_memory_bytes")
    await leave(talkers)
    await stage.settled(0)
    return {
        "sockets": count,
        "connects_per_s": round(count / took),
        "kib_per_socket": round(memory / count / 1024, 1),
        "tasks_per_socket": round((total(held, "tasks") - total(before, "tasks")) / count, 2),
        "cpu_share": round(grown(held, later, "process_cpu_seconds_total") / max(seconds, 1e-9), 4),
        "connecting_cpu_share": round(grown(before, after, "process_cpu_seconds_total") / took, 3),
    }


async def leave_again(stage: Stage, count: int) -> None:
    talkers = stage.talkers(count)
    await connect_all(talkers, stage.socket_url, stage.headers)
    await stage.settled(count)
    await leave(talkers)


async def streams(stage: Stage, count: int, rate: float, seconds: float) -> Figures:
    """So many answers at once. ``rate``: the server's tokens a second of each, with which their length is chosen."""
    talkers = stage.talkers(count)
    await connect_all(talkers, stage.socket_url, stage.headers)
    tokens = int(rate * (2 * seconds + SETTLE_SECONDS)) + count // 20
    ends = [talker.ask(input=stage.prompt(), max_output_tokens=tokens, temperature=0) for talker in talkers]
    began = time.monotonic()
    await stage.outcome([talker.begun.wait() for talker in talkers], talkers, "first tokens")
    started = time.monotonic() - began
    await asyncio.sleep(SETTLE_SECONDS / 2)
    before, heard = await stage.look(), _heard(talkers)
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    after = await stage.look()
    took, client = time.monotonic() - began, time.process_time() - cpu
    characters, deltas = (now - then for now, then in zip(_heard(talkers), heard, strict=True))
    ended = await stage.outcome(ends, talkers, "ends of streams")
    stage.ended += [end["id"] for end in ended]
    told = sum(end["usage"]["output_tokens"] for end in ended) / max(1, _heard(talkers)[0])
    await leave(talkers)
    return {
        "streams": count,
        "started_s": round(started, 2),
        "tokens_per_s": round(characters * told / took, 1),
        "deltas_per_s": round(deltas / took, 1),
        "wanted_tokens_per_s": rate * count,
        "cpu_share": round(grown(before, after, "process_cpu_seconds_total") / took, 3),
        "client_cpu_share": round(client / took, 3),
        "step_to_socket_p50_s": quantile(before, after, "step_to_socket_seconds", 0.5),
        "step_to_socket_p99_s": quantile(before, after, "step_to_socket_seconds", 0.99),
        "loop_lag_p999_s": quantile(before, after, "event_loop_lag_seconds", 0.999),
        "loop_lag_samples": int(grown(before, after, "event_loop_lag_seconds_count")),
    }


def _heard(talkers: Sequence[Talker]) -> tuple[int, int]:
    """Characters of deltas, and deltas: of those that were merged each is several tokens."""
    return sum(talker.characters for talker in talkers), sum(talker.deltas for talker in talkers)


def _is_well(end: asyncio.Future[dict[str, Any]]) -> bool:
    return end.done() and not end.cancelled() and end.exception() is None


async def resumes(stage: Stage, count: int) -> Figures:
    """Readers of responses that have just ended come back all at once, each from another event on."""
    talkers = stage.talkers(min(TOLD_AGAIN, count))
    await connect_all(talkers, stage.socket_url, stage.headers)
    asked = [talker.ask(input=stage.prompt(), max_output_tokens=40, temperature=0) for talker in talkers]
    await stage.outcome(asked, talkers, "responses to resume")
    ended = [(end.result()["id"], talker.heard) for end, talker in zip(asked, talkers, strict=True) if _is_well(end)]
    if not ended:
        raise ChatpagerError(stage.faults[-1])
    await leave(talkers)
    await stage.settled(0)
    looked = time.monotonic()
    before = await stage.look()
    back, room = stage.talkers(count), asyncio.Semaphore(AT_ONCE)

    async def resume(talker: Talker) -> None:
        name, last = ended[talker.number % len(ended)]
        after = stage.rng.randint(0, last - 1)
        end = talker.expect_resumed(name, after)
        url = f"{stage.socket_url}?response_id={name}&starting_after={after}"
        async with room:
            await talker.connect(url, stage.headers, source=source_of(url, talker.number))
        await end

    began, cpu = time.monotonic(), time.process_time()
    await stage.outcome([resume(talker) for talker in back], back, "resumes")
    took, client = time.monotonic() - began, time.process_time() - cpu
    after = await stage.look()
    reads, between = grown(before, after, "store_transactions_total", 'kind="read"'), time.monotonic() - looked
    await leave(back)
    await stage.settled(0)
    return {
        "resumes": count,
        "seconds": round(took, 2),
        "sql_reads": beyond_the_keyring(reads, between),
        "all_sql_reads": int(reads),
        "recovered": int(grown(before, after, "resumes_total", 'recovered="true"')),
        "cpu_share": round(grown(before, after, "process_cpu_seconds_total") / took, 3),
        "client_cpu_share": round(client / took, 3),
    }


async def stalled(stage: Stage, count: int) -> Figures:
    """Clients that ask and ask, and read nothing. They do not write down what they do not hear."""
    before = await stage.settled(0)
    kernel = _kernel_bytes()
    talkers = stage.talkers(count)
    for talker in talkers:
        await talker.connect(stage.socket_url, stage.headers, receive_buffer=4096)
        talker.socket.stop_reading()
    began, most, most_kernel = time.monotonic(), 0.0, 0
    for talker in talkers:
        for _ in range(STALLED_ASKS):
            talker.ask(input="a", max_output_tokens=1, metadata=BULK, store=False).cancel()
    while stage.sockets(now := await stage.look()) > 0 and time.monotonic() < began + stage.patience:
        most = max(most, grown(before, now, "process_resident_memory_bytes"))
        most_kernel = max(most_kernel, _kernel_bytes() - kernel)
        await asyncio.sleep(0.2)
    gone = time.monotonic() - began if stage.sockets(now) <= 0 else inf
    await leave(talkers)
    return {
        "stalled": count,
        "gone_s": round(gone, 2),
        "mib_each": round(most / count / 2**20, 3),
        "kernel_mib_each": round(most_kernel / count / 2**20, 3),
    }


def _kernel_bytes() -> int:
    """What all TCP sockets of this machine hold in the kernel."""
    if not SOCKSTAT.exists():
        return 0
    line = next(line for line in SOCKSTAT.read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[line.split().index("mem") + 1]) * PAGE


async def soak(stage: Stage, sockets: int, seconds: float) -> Figures:
    """Clients that come, ask a few times, are cut in the middle and come back, for as long as it takes."""
    until, looks = time.monotonic() + seconds, list[tuple[float, Samples]]()
    turns = 0

    async def client() -> None:
        nonlocal turns
        while time.monotonic() < until:
            [talker] = stage.talkers(1)
            try:
                await connect_all([talker], stage.socket_url, stage.headers)
            except SocketLost as error:
                stage.faults.append(str(error))
                return
            for _ in range(3):
                length = stage.rng.randint(8, 60)
                try:
                    end = talker.ask(input=stage.prompt(), max_output_tokens=length, temperature=0, store=True)
                    if stage.rng.random() < 0.2:
                        asyncio.get_running_loop().call_later(stage.rng.random(), talker.socket.cut)
                    async with asyncio.timeout(stage.patience):
                        stage.ended.append((await end)["id"])
                except SocketLost:
                    break
                except TimeoutError:
                    stage.faults.append(f"{talker.response_id} had no end within {stage.patience:g} s")
                    break
                turns += 1
            await leave([talker])

    async with asyncio.TaskGroup() as group:
        for _ in range(sockets):
            group.create_task(client())
        while time.monotonic() < until:
            looks.append((time.monotonic(), await stage.look()))
            await asyncio.sleep(min(5.0, seconds / 20))
    end = await stage.settled(0)
    while total(end, "kv_blocks", 'state="active"') and time.monotonic() < until + stage.patience:
        await asyncio.sleep(0.2)  # those that were cut off go on to their ends
        end = await stage.look()
    half = looks[len(looks) // 2 :]
    return {
        "sockets": sockets,
        "seconds": seconds,
        "turns": turns,
        "memory_mib_per_h": round(_slope(half, "process_resident_memory_bytes") * 3600 / 2**20, 2),
        "python_blocks_per_h": round(_slope(half, "python_allocated_blocks") * 3600),
        "tasks_per_h": round(_slope(half, "tasks") * 3600, 1),
        "open_fds_per_h": round(_slope(half, "process_open_fds") * 3600, 1),
        "active_blocks_at_the_end": int(total(end, "kv_blocks", 'state="active"')),
        "loop_lag_p999_s": quantile(looks[0][1], looks[-1][1], "event_loop_lag_seconds", 0.999),
        "memory_mib": [round(total(look, "process_resident_memory_bytes") / 2**20, 1) for _, look in looks],
        "python_blocks": [int(total(look, "python_allocated_blocks")) for _, look in looks],
    }


def _slope(looks: list[tuple[float, Samples]], name: str) -> float:
    """A second, by least squares."""
    times, values = [t for t, _ in looks], [total(samples, name) for _, samples in looks]
    t, v = sum(times) / len(times), sum(values) / len(values)
    spread = sum((x - t) ** 2 for x in times)
    return sum((x - t) * (y - v) for x, y in zip(times, values, strict=True)) / spread if spread else 0.0
