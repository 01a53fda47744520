"""``kill -9`` of a writing process, at named places and at random: what it acknowledged is there afterwards."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

import chatpager
from chatpager.store import Store
from tests.store import writer
from tests.store.writer import TENANT

PLACES = [f"store.{m}.{w}_commit" for m in ("begin_turn", "journal", "finish_turn") for w in ("before", "after")]


class Acknowledged:
    """What writers said they had done."""

    def __init__(self):
        self.begun, self.journalled, self.finished = {}, {}, {}

    def take(self, line):
        kind, *words = line.split()
        if kind == "begin":
            self.begun[words[0]] = tuple(words[1:])
        elif kind == "journal":
            self.journalled |= {id: int(n) for id, n in (word.split(":") for word in words)}
        elif kind == "finish":
            self.finished[words[0]] = tuple(words[1:])


def rounds(url, number, seed):
    """Kill ``number`` writers one after the other; yields after each death what all of them had acknowledged."""
    acknowledged, rng = Acknowledged(), random.Random(seed)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.store.writer"], cwd=Path(chatpager.__file__).parents[1],
        env=os.environ,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    with server:
        for n in range(number):
            at_random = n % 3 == 2
            place = PLACES[(n - n // 3) % len(PLACES)]
            spec = "" if at_random else f"{place}=kill@{rng.randint(1, 12)}"
            server.stdin.write(f"{url} {n} {spec}\n")
            lines_left, pid = rng.randint(1, 40), None
            for line in server.stdout:
                if line.startswith("pid"):
                    pid = int(line.split()[1])
                elif line.startswith("exit"):
                    assert line == f"exit {-signal.SIGKILL}\n", "a writer ends by being killed"
                    break
                acknowledged.take(line)
                lines_left -= 1
                if at_random and lines_left == 0:
                    os.kill(pid, signal.SIGKILL)
            yield acknowledged
        server.stdin.close()


async def check(url, acknowledged, ids):
    """Open what a killed writer left behind, as a server would, and look for every acknowledged thing."""
    store = await Store.open(url, migrate=False)
    interrupted = await store.recover(now=9)
    assert all(done.tip == "moved" for done in interrupted)
    assert await store.recover(now=9) == []
    for id in ids:
        session_id, input_tip = acknowledged.begun[id]
        turn = await store.turn(TENANT, id)
        assert (turn.session_id, turn.input_tip) == (session_id, input_tip)
        assert turn.status in (["completed"] if id in acknowledged.finished else ["completed", "interrupted"])
        answer = (await store.load_chain(TENANT, turn.tip_hash))[-1] if turn.tip_hash else None
        kept = answer.token_ids if answer else ()
        assert len(kept) >= acknowledged.journalled.get(id, 0), f"{id} lost tokens that were on their way to a client"
        assert list(kept) == writer.tokens(id, 0, len(kept))
        assert answer is None or answer.content[0]["text"] == writer.text(kept)
        if id in acknowledged.finished:
            assert (turn.tip_hash, "moved") == acknowledged.finished[id]
            assert len(kept) == writer.length(id)
            assert await store.response(TENANT, id) == {"id": id}
    for session_id in {acknowledged.begun[id][0] for id in ids}:
        tip = (await store.session(TENANT, session_id)).tip_hash
        assert await store.verify(TENANT, tip) == []
        said = {m.content[0]["text"] for m in await store.load_chain(TENANT, tip) if m.role == "user"}
        begun = {id for id, (of, _) in acknowledged.begun.items() if of == session_id}
        assert begun <= said, "an acknowledged message is in its session's chain"
    if url.startswith("sqlite"):
        async with store._database.read() as c:
            assert (await c.execute(text("PRAGMA integrity_check"))).scalar() == "ok"
            assert (await c.execute(text("PRAGMA foreign_key_check"))).all() == []
    await store.close()


def survive(url, number, seed=0):
    """Check after each death what is new, and in the end everything."""
    known = set()
    for acknowledged in rounds(url, number, seed):
        asyncio.run(check(url, acknowledged, acknowledged.begun.keys() - known))
        known |= acknowledged.begun.keys()
    asyncio.run(check(url, acknowledged, known))
    assert known
    assert acknowledged.journalled
    assert acknowledged.finished


def test_a_killed_process_loses_nothing_it_acknowledged(url):
    survive(url, 40 if url.startswith("sqlite") else 20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_killed_processes_lose_nothing_they_acknowledged(url):
    survive(url, 1000, seed=1)


async def kept_after(cut, url, copy):
    """The tokens that are left of a turn when the log is cut off after ``cut`` bytes."""
    file = Path(url.removeprefix("sqlite+aiosqlite:///"))
    shutil.copy(file, copy)
    copy.with_name(f"{copy.name}-wal").write_bytes(file.with_name(f"{file.name}-wal").read_bytes()[:cut])
    store = await Store.open(f"sqlite:///{copy}", migrate=False)
    (done,) = await store.recover(now=9)
    tip = (await store.session(TENANT, "conv_1")).tip_hash
    assert await store.verify(TENANT, tip) == []
    asked, *answer = await store.load_chain(TENANT, tip)
    await store.close()
    assert asked.content[0]["text"] == "resp_1"
    assert [m.token_ids for m in answer] == [tuple(writer.tokens("resp_1", 0, done.tokens))] * bool(done.tokens)
    return done.tokens


async def test_a_power_cut_keeps_what_was_acknowledged(sqlite_url, tmp_path, open_store):
    """The model: whatever was written after the last synced commit is lost, wholly or in part.

    An acknowledgement syncs the write-ahead log, so the log is safe up to where it ended then; the database file is as
    it was, because nothing was checkpointed.
    """
    file = sqlite_url.removeprefix("sqlite+aiosqlite:///")
    before = os.stat(file).st_size
    store = await open_store(sqlite_url, migrate=False)
    await store.create_session(TENANT, id="conv_1", now=1)
    await writer.begin(store, "conv_1", "resp_1", 2)
    safe = os.stat(f"{file}-wal").st_size
    for first in range(0, 20, 5):
        await store.journal([writer.entry("resp_1", first, first + 5)])
    written = os.stat(f"{file}-wal").st_size
    assert os.stat(file).st_size == before
    cuts = sorted([safe, written, *(random.Random(0).randint(safe, written) for _ in range(20))])
    kept = [await kept_after(cut, sqlite_url, tmp_path / f"after-{n}.db") for n, cut in enumerate(cuts)]
    assert (kept[0], kept[-1], kept) == (0, 20, sorted(kept))
