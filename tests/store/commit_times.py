"""How long a commit takes on this machine: ``python -m tests.store.commit_times [URL]``, a new SQLite file by default.

``durable`` is what acknowledges (FULL; synchronous_commit on), ``relaxed`` what journals (NORMAL; off). A row is a
journal entry of 4 tokens of its own turn, as one step of the engine writes them.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from chatpager.store import JournalEntry, NewMessage, NewTurn, Store, journal, text_content


async def measure(store, ids, *, durable, commits):
    times = []
    for n in range(commits):
        entries = [JournalEntry(turn_id=id, first_index=4 * n, token_ids=[1, 2, 3, 4], text="some text") for id in ids]
        began = time.perf_counter()
        if durable:
            async with store._database.write("measure", durable=True) as c:
                await journal.write(c, entries, store.owner)
        else:
            await store.journal(entries)
        times.append(1000 * (time.perf_counter() - began))
    cuts = statistics.quantiles(times, n=100)
    name = "durable" if durable else "relaxed"
    print(f"{name}  {len(ids):3} rows  {commits} commits  p50 {cuts[49]:6.2f} ms  p99 {cuts[98]:6.2f} ms", flush=True)


async def begin(store, id):
    message = NewMessage(role="user", content=text_content("Tell me something."), vocab="v", token_ids=range(20))
    new = NewTurn(id=id, tenant="t", kind="response", model="m", vocab="v", messages=[message], now=0)
    began = time.perf_counter()
    await store.begin_turn(new)
    return 1000 * (time.perf_counter() - began)


async def main(url):
    store = await Store.open(url, migrate=True)
    run = 0
    for durable in (True, False):
        for rows in (1, 64):
            ids = [f"resp_{time.time_ns()}_{run}_{n}" for n in range(rows)]
            times = [await begin(store, id) for id in ids]
            await measure(store, ids, durable=durable, commits=500 if durable else 2000)
            run += 1
    cuts = statistics.quantiles(times, n=100)
    print(f"begin_turn  {len(times)} turns  p50 {cuts[49]:.2f} ms  p99 {cuts[98]:.2f} ms")
    await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/chatpager.db"))
