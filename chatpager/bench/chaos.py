"""``chatpager bench chaos``: a server under a small load is killed, stopped, cut off and refused its database.

Its clients write down what they hear, and afterwards the store is asked: every turn that somebody was told of is there,
and every text that somebody has seen is what is stored. The engine is the fake one; all else is real.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from rich.console import Console
from rich.table import Table

from chatpager.bench import machine, oracle, report, server
from chatpager.bench.faults import FAULTS, Cutter, Fault, cutting
from chatpager.bench.plain_socket import SocketLost
from chatpager.bench.talkers import Refused, Talker, leave
from chatpager.bench.transcript import Transcript, lines
from chatpager.demo import model_path
from chatpager.errors import ChatpagerError, ConfigError

CLIENTS = 6
ROUND_SECONDS = 3.0
"""Of talking, where the fault does not end it."""
AFTER_SECONDS = 30.0
"""By then a server that was not killed serves everybody again."""
ANSWER_SECONDS = 30.0
"""Within which a response is told to its end."""
FLAGS = ("--engine", "fake", "--test-mode", "--fake-tokens-per-second", "200", "--num-kv-blocks", "4096")


@dataclass
class Tally:
    """Of one fault."""

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    """Acknowledged, and not there."""
    seen: int = 0
    """Deltas that a client was shown."""
    changed: int = 0
    """Responses whose text is not what was shown of it."""
    ended: int = 0
    refused: int = 0
    cuts: int = 0
    faults: list[str] = field(default_factory=list)
    """All that must not be, the two above included."""


def run(*, rounds: int, only: Sequence[str] | None, seed: int, out: str | None) -> dict[str, Any]:
    """Play ``rounds`` of each fault, print and return what came of it.

    Raises:
        ConfigError: a fault that there is not, or no rounds.
        ChatpagerError: something was lost, changed, or told wrong.
    """
    if rounds < 1:
        raise ConfigError("rounds", "must be at least 1", value=rounds)
    for name in only or ():
        if name not in FAULTS:
            raise ConfigError("only", f"the faults are {', '.join(FAULTS)}", value=name)
    console, rng = Console(), random.Random(seed)
    tallies = {}
    for name in only or FAULTS:
        with console.status(f"{name}: {FAULTS[name].about}"), tempfile.TemporaryDirectory() as folder:
            tallies[name] = _play(FAULTS[name], rounds, rng, Path(folder))
    console.print(_table(tallies))
    result = {
        "what": "what clients were told of a server that met with faults, against what it has stored",
        "seed": seed,
        "faults": {name: {**vars(tally), "faults": tally.faults[:20]} for name, tally in tallies.items()},
        "machine": machine.describe(),
    }
    report.save(result, out)
    if wrong := [f"{name}: {fault}" for name, tally in tallies.items() for fault in tally.faults]:
        raise ChatpagerError(f"{len(wrong)} faults, the first: " + "; ".join(wrong[:3]))
    return result


def _play(fault: Fault, rounds: int, rng: random.Random, folder: Path) -> Tally:
    """All rounds on one data folder. What a killed server has told is asked of its successor, and one that needs no
    failpoints lives through all rounds."""
    tally, heard, data = Tally(), folder / "heard.jsonl", folder / "data"
    data.mkdir()
    with ExitStack() as living:
        url, process = "", None
        for _ in range(rounds):
            spec = fault.failpoints(rng)
            if process is None or spec or fault.deadly:
                living.close()
                url, process = living.enter_context(server.served(model_path(), data, *FLAGS, failpoints=spec))
            if tally.rounds and fault.deadly:
                asyncio.run(_check(url, heard, tally, restarted=True))
            asyncio.run(_round(url, process, fault, rng, heard, tally))
            tally.rounds += 1
            if not fault.deadly:
                asyncio.run(_check(url, heard, tally))
        if fault.deadly:
            living.close()
            url, _ = living.enter_context(server.served(model_path(), data, *FLAGS))
            asyncio.run(_check(url, heard, tally, restarted=True))
    return tally


async def _round(
    url: str, process: subprocess.Popen[bytes], fault: Fault, rng: random.Random, heard: Path, tally: Tally
) -> None:
    """Let clients talk while the fault strikes; their transcript goes to ``heard``."""
    async with AsyncExitStack() as opened:
        transcript = opened.enter_context(Transcript(heard))
        http = await opened.enter_async_context(ClientSession())
        cutter = None
        if fault.cuts:
            cutter = await opened.enter_async_context(cutting(int(url.rpartition(":")[2])))
        address = f"http://127.0.0.1:{cutter.port}" if cutter else url
        until = time.monotonic() + ROUND_SECONDS
        clients = [
            _Client(number, transcript, address, fault, random.Random(rng.random()), cutter)
            for number in range(CLIENTS)
        ]
        for client in clients:
            async with http.post(f"{url}/v1/conversations", json={}) as answer:
                client.conversation = (await answer.json())["id"]
        talking = [asyncio.create_task(client.talk(until)) for client in clients]
        if fault.strike:
            await _somebody_was_shown(clients, talking)
            await fault.strike(process, rng)
        await asyncio.gather(*talking)
        tally.faults += [fault for client in clients for fault in client.faults]
        if fault.deadly:
            await asyncio.to_thread(process.wait)
        tally.cuts += cutter.cuts if cutter else 0


async def _somebody_was_shown(clients: Sequence[_Client], talking: Sequence[asyncio.Task[None]]) -> None:
    """Some text, or the end of one who talked: failpoints may be faster."""
    shown = [asyncio.create_task(client.shown()) for client in clients]
    try:
        await asyncio.wait([*shown, *talking], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiting in shown:
            waiting.cancel()


class _Client:
    """One conversation, turn after turn; where its socket is lost it comes back for the rest."""

    def __init__(
        self,
        number: int,
        transcript: Transcript,
        url: str,
        fault: Fault,
        rng: random.Random,
        cutter: Cutter | None,
    ) -> None:
        self.conversation = ""
        self.faults: list[str] = []
        self._talker = Talker(number, transcript)
        self._url = url.replace("http", "ws", 1) + "/v1/responses"
        self._fault, self._rng, self._cutter = fault, rng, cutter

    async def shown(self) -> None:
        """Until it was shown some text, or an end."""
        await self._talker.begun.wait()

    async def talk(self, until: float, patience: float = ANSWER_SECONDS) -> None:
        """Until then, and then until one more turn ended well: whatever the fault was, it is over. One that is not told
        its end within ``patience`` seconds is the last."""
        given_up = until + AFTER_SECONDS
        connected = served = False
        while time.monotonic() < until or not (served or time.monotonic() > given_up):
            try:
                async with asyncio.timeout(patience):
                    if not connected:
                        connected = True
                        end = await self._come_back()
                    else:
                        end = await self._ask()
                served = end is not None and end["error"] is None and time.monotonic() >= until
            except Refused:
                await asyncio.sleep(0.05)
            except SocketLost:
                connected = False
                if self._fault.deadly:
                    return
                await asyncio.sleep(0.01)
            except TimeoutError:
                name, heard = self._talker.response_id, self._talker.heard
                self.faults.append(f"{name} was told up to event {heard}, and no end within {patience:g} s")
                break
        else:
            if not served:
                self.faults.append(f"nobody was served {AFTER_SECONDS:g} s later")
        await leave([self._talker])

    async def _ask(self) -> dict[str, Any]:
        if self._cutter and self._rng.random() < 0.5:
            self._cutter.cut_in(self._rng.randint(0, 6000))
        text = f"Question {self._rng.randrange(10**6)}?"
        length = self._rng.randint(4, 48)
        return await self._talker.ask(
            conversation=self.conversation, input=text, max_output_tokens=length, temperature=0
        )

    async def _come_back(self) -> dict[str, Any] | None:
        """The rest of the response that was being told, if there was one."""
        name, heard = self._talker.response_id, self._talker.heard
        if name is None:
            await self._talker.connect(self._url)
            return None
        rest = self._talker.expect_resumed(name, heard)
        try:
            await self._talker.connect(f"{self._url}?response_id={name}&starting_after={heard}")
            return await rest
        finally:
            rest.cancel()


async def _check(url: str, heard: Path, tally: Tally, *, restarted: bool = False) -> None:
    """Ask the store for all that was heard. ``restarted``: nobody goes on with what was open."""
    found = oracle.account(lines(heard))
    tally.acknowledged += found.acknowledged
    tally.seen += sum(len(response.deltas) for response in found.responses.values())
    tally.ended += found.ended
    tally.refused += found.refused
    tally.faults += found.faults
    async with ClientSession() as http:
        for name, response in found.responses.items():
            async with http.get(f"{url}/v1/responses/{name}") as answer:
                stored = await answer.json() if answer.status == 200 else None
            tally.lost += stored is None
            tally.changed += stored is not None and not oracle.text_of(stored).startswith(response.text)
            tally.faults += oracle.against_the_store(name, response, stored)
            tally.faults += oracle.unended(name, stored) if restarted else []


def _table(tallies: dict[str, Tally]) -> Table:
    columns = ("rounds", "acknowledged", "lost", "seen", "changed", "ended", "refused", "cuts")
    shown = Table("fault", *columns, "wrong", box=None)
    for name, tally in tallies.items():
        shown.add_row(name, *(f"{getattr(tally, column):,}" for column in columns), f"{len(tally.faults):,}")
    return shown
