"""A process that writes turns until it is killed; it says what was acknowledged, one line after each commit.

It is a server of such processes: for each line of its input, ``URL ROUND FAILPOINTS``, it forks a writer, which writes
its lines to the same output, and then says ``exit STATUS``. To fork is thirty times as fast as to import again.
"""

import asyncio
import os
import random
import sys

from chatpager import failpoints
from chatpager.errors import ConversationNotFound
from chatpager.store import FinishedTurn, JournalEntry, NewMessage, NewTurn, Store, text_content

TENANT = "ann"
VOCAB = "v"
SESSIONS = 3
STEP = 5


def token(turn_id, index):
    """The turn's token at ``index``: known to whoever checks."""
    return random.Random(f"{turn_id}/{index}").randrange(256)


def tokens(turn_id, first, last):
    return [token(turn_id, index) for index in range(first, last)]


def text(ids):
    return "".join(chr(0x100 + i) for i in ids)


def entry(turn_id, first, last):
    ids = tokens(turn_id, first, last)
    return JournalEntry(turn_id=turn_id, first_index=first, token_ids=ids, text=text(ids))


def length(turn_id):
    return random.Random(turn_id).randrange(40)


def acknowledge(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def write(url, round):
    store = await Store.open(url, migrate=False)
    acknowledge("ready")
    for n in range(10_000):
        ids = [f"resp_{round}_{n}_{s}" for s in range(SESSIONS)]
        begun = await asyncio.gather(*(begin(store, f"conv_{round // 10}_{s}", id, n) for s, id in enumerate(ids)))
        live = dict(zip(ids, begun, strict=True))
        first = 0
        while live:
            last = first + STEP
            entries = [entry(id, first, min(last, length(id))) for id in live if length(id) > first]
            await store.journal(entries)
            acknowledge("journal", *(f"{e.turn_id}:{e.first_index + len(e.token_ids)}" for e in entries))
            for id in [id for id in live if length(id) <= last]:
                await finish(store, id)
                del live[id]
            first = last


async def begin(store, session_id, id, n):
    try:
        session = await store.session(TENANT, session_id)
    except ConversationNotFound:
        session = await store.create_session(TENANT, id=session_id, now=n)
    message = NewMessage(role="user", content=text_content(id), vocab=VOCAB, token_ids=[1])
    new = NewTurn(
        id=id, tenant=TENANT, kind="response", model="m", vocab=VOCAB, messages=[message], now=n,
        session_id=session_id, parent_hash=session.tip_hash,
    )  # fmt: skip
    begun = await store.begin_turn(new)
    acknowledge("begin", id, session_id, begun.turn.input_tip)


async def finish(store, id):
    ids = tokens(id, 0, length(id))
    answer = NewMessage(role="assistant", content=text_content(text(ids)), vocab=VOCAB, token_ids=ids)
    done = FinishedTurn(id=id, tenant=TENANT, status="completed", message=answer, now=1, response={"id": id})
    ended = await store.finish_turn(done)
    acknowledge("finish", id, ended.tip_hash, ended.tip)


def serve():
    for line in sys.stdin:
        url, round, spec = line.rstrip("\n").split(" ")
        child = os.fork()
        if child == 0:
            failpoints.arm(spec, {"CHATPAGER_TEST_MODE": "1"})
            acknowledge("pid", os.getpid())
            asyncio.run(write(url, int(round)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        acknowledge("exit", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    serve()
