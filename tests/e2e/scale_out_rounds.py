"""Rounds of faults that strike what ``scale_out`` starts, under clients that talk, and what all of them must leave
true: nothing acknowledged is lost, no seen token is unsaid, and no index of an answer is committed twice, or by two."""

import asyncio
import collections
import itertools
import os
import random
import re
import shutil
import time

from aiohttp import ClientSession, ClientTimeout

from chatpager.bench import oracle
from chatpager.bench.transcript import Transcript, lines
from chatpager.store import chain
from tests.e2e.scale_out import Client
from tests.processes import ROOT

ROUNDS = int(os.environ.get("CHATPAGER_SCALE_OUT_ROUNDS", "0"))
"""0: one of each fault."""
SEED = int(os.environ.get("CHATPAGER_SCALE_OUT_SEED", "7"))
ONLY = os.environ.get("CHATPAGER_SCALE_OUT_FAULTS", "")
"""Names of faults, with commas, each of which waits until all has come back; all faults where nothing is said."""
CLIENTS = 4
MISTAKE = re.compile(r"Traceback|\bat='[^']*\.py:")
"""In a server's log: one of its own (``log_mistake``), or of who did not expect it."""
HEARD = "heard.jsonl"
KEPT = ROOT / "test-output" / "scale-out"
AGAIN_SECONDS = 90.0
"""Behind a fault, until everybody was answered once more."""


def deck(names, rng):
    """Faults without end, all equally often."""
    while True:
        yield from rng.sample(names, len(names))


async def play(cluster, faults, rng, heard, rounds, http):
    """The clients, and when each fault struck."""
    struck = []
    with Transcript(heard) as transcript:
        clients = [Client(n, transcript, cluster.fronts, random.Random(rng.random()), http) for n in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            talking = [group.create_task(client.talk()) for client in clients]
            await answered(clients)
            for name in itertools.islice(deck(sorted(faults), rng), rounds):
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                struck.append((name, await faults[name](cluster, rng, http)))
                if ONLY or rng.random() < 0.75:  # else the next fault strikes what has not come back
                    await answered(clients)
                    await asyncio.wait_for(cluster.is_whole(http), AGAIN_SECONDS)
                await asyncio.sleep(rng.uniform(0.0, 0.5))
            await answered(clients)
            for client in clients:
                client.stop()
            async with asyncio.timeout(AGAIN_SECONDS):
                await asyncio.gather(*talking)
    return clients, struck


async def answered(clients):
    for client in clients:
        client.served.clear()
    async with asyncio.timeout(AGAIN_SECONDS):
        await asyncio.gather(*(client.served.wait() for client in clients))


async def get(http, front, path):
    async with http.get(front.url + path) as answer:
        return await answer.json() if answer.status == 200 else None


async def faults_of(account, front, http):
    """What of all that was heard the store does not have, or has otherwise."""
    found = list(account.faults)
    for name, heard in account.responses.items():
        stored = await get(http, front, f"/v1/responses/{name}")
        found += [*oracle.against_the_store(name, heard, stored), *oracle.unended(name, stored)]
    return found


async def lost_of(conversation, asked, told, front, http):
    """Whether all that was ``asked`` and acknowledged (``told``) stands in the conversation, in order, once."""
    said, after = [], ""
    while True:
        page = await get(http, front, f"/v1/conversations/{conversation}/items?order=asc&limit=100{after}")
        said += [item["content"][0]["text"] for item in page["data"] if item["role"] == "user"]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    wanted = [question for question in asked if question in told or question in said]
    return [] if said == wanted else [f"{conversation} holds {said} where {wanted} was said"]


def committed_wrong(database):
    """Turns of which an index was committed twice, or by two, or which ended twice."""
    found, ends = [], collections.Counter()
    indices, writers = collections.defaultdict(list), collections.defaultdict(set)
    for turn, first, ids, writer in database.rows("SELECT turn_id, first_index, token_ids, writer FROM written"):
        count = len(chain.unpack(bytes.fromhex(ids.removeprefix("\\x"))))
        indices[turn] += range(int(first), int(first) + count)
        writers[turn].add(writer)
    for (turn,) in database.rows("SELECT turn_id FROM ended"):
        ends[turn] += 1
    found += [f"{turn}: index committed twice" for turn, all in indices.items() if len(all) != len(set(all))]
    found += [f"{turn}: {names} committed" for turn, names in writers.items() if len(names) > 1]
    found += [f"{turn} ended {times} times" for turn, times in ends.items() if times > 1]
    return found, sum(map(len, indices.values()))


def pauses(heard, struck):
    """By fault: for how long the answer that stood still for longest did, of those that were being told as it struck,
    in seconds; the answers that failed are left out."""
    times, failed, reading = collections.defaultdict(list), set(), {}
    for line in lines(heard):
        if line.sent is not None:
            reading[line.socket] = line.sent.get("response_id")
        elif line.event is not None and line.event.get("sequence_number") is not None:
            if line.event["type"] == "response.created":
                reading[line.socket] = line.event["response"]["id"]
            times[reading[line.socket]].append(line.t)
            if line.event["type"] == "response.failed":
                failed.add(reading[line.socket])
    found = collections.defaultdict(list)
    for name, at in struck:
        told = [t for id, t in times.items() if id not in failed and t[0] <= at <= t[-1]]
        gaps = [max(b - a for a, b in itertools.pairwise(t) if b >= at and a <= at + 1.0) for t in told]
        if gaps:
            found[name].append(max(gaps))
    return found


def tell(account, clients, struck, pauses, tokens):
    print(f"\nrounds: {len(struck)} (seed {SEED}) {dict(collections.Counter(name for name, _ in struck))}")
    print(f"acknowledged {account.acknowledged}, ended {account.ended}, events {account.events}, committed {tokens}")
    print("refused, or failed:", dict(sum((client.refusals for client in clients), collections.Counter())))
    for name, seconds in sorted(pauses.items()):
        middle = sorted(seconds)[len(seconds) // 2]
        print(f"{name}: {len(seconds)} rounds, answers stood still for {middle:.2f} s, at most {max(seconds):.2f} s")


async def rounds_of(cluster, faults, folder):
    """Play them all, and look at what came of it; what servers said is kept where it was not as it should be."""
    try:
        await _rounds_of(cluster, {name: faults[name] for name in ONLY.split(",")} if ONLY else faults, folder)
    except BaseException:
        KEPT.mkdir(parents=True, exist_ok=True)
        for front in cluster.fronts:
            front.close()
            (KEPT / f"front{front.number}.log").write_text("\n=== the next one\n".join(front.said()))
        if (folder / HEARD).exists():
            shutil.copy(folder / HEARD, KEPT)
        raise


async def _rounds_of(cluster, faults, folder):
    rng, heard, rounds = random.Random(SEED), folder / HEARD, ROUNDS or len(faults)
    await cluster.start()
    async with ClientSession(timeout=ClientTimeout(total=30)) as http:
        clients, struck = await play(cluster, faults, rng, heard, rounds, http)
        account = oracle.account(lines(heard))
        front = cluster.fronts[0]
        wrong, tokens = committed_wrong(cluster.database)
        tell(account, clients, struck, pauses(heard, struck), tokens)
        wrong += [fault for client in clients for fault in client.faults]
        wrong += await faults_of(account, front, http)
        told = {heard.input for heard in account.responses.values()}
        for conversation, asked in (pair for client in clients for pair in client.asked.items()):
            wrong += await lost_of(conversation, asked, told, front, http)
    for front in cluster.fronts:
        wrong += [line for said in front.said() for line in said.splitlines() if MISTAKE.search(line)]
    assert account.acknowledged > rounds
    assert not wrong, "\n".join(wrong)
