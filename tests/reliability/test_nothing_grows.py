"""Thousands of turns leave nothing in memory but what has a bound, and what has one is listed here.

A server in this process is used in every way that makes and leaves something behind: turns that go on from others, in
conversations, without a store, over HTTP, cut off in the middle, resumed, refused, cancelled, deleted. Every cache has
room for a few entries only, so it is full when the counting begins, and from then on a turn may leave nothing: what it
does leave is counted in blocks of Python's allocator, which the smallest object takes one of.
``CHATPAGER_SOAK_TURNS=2000`` for that many turns between two counts.
"""

import asyncio
import functools
import gc
import itertools
import json
import os
import struct
import sys
from collections import Counter, deque

import pytest

from chatpager.engine.cache_events import CacheEvents
from chatpager.engine.tokenizer import Tokenizer
from chatpager.server.websocket import CONNECTIONS
from tests import serving
from tests.serving import _scripted, eventually

TURNS = int(os.environ.get("CHATPAGER_SOAK_TURNS", "70"))
ROUNDS = 3
MOST_KEPT = 0.9
"""Of a turn: whatever stays of each is one block or more."""
OURS = ("chatpager.", "aiohttp.", "sqlalchemy.")
LIBRARIES = {"yarl", "urllib", "aiohttp", "multidict", "websockets"}
FEW = 32
"""The bound of what the test can give one: conversations whose place in the cache is known (65,536, and those with a
lease), prompts that are remembered of them (as many, and 4 million tokens), what came into the cache and left it
(65,536). Of what else grows: blocks, and four times as many names of evicted ones (the pool's size), host memory's
blocks (``swap_space``), turns that can be told again (five minutes, and 80 MiB) and their frames (32 MiB), pieces of
texts (``PIECES_BYTES``), leases (their deadlines), what the admin page is told (24 hours, and so many rows of each
kind), logins, keys and tenants (their number)."""


@pytest.fixture
def small_caches(monkeypatch):
    monkeypatch.setattr(CacheEvents.__init__, "__defaults__", (FEW,))
    monkeypatch.setattr("chatpager.engine.prefix_cache.GHOSTS", 1)
    monkeypatch.setitem(Tokenizer.__init__.__kwdefaults__, "pieces_bytes", 1 << 14)
    monkeypatch.setattr("chatpager.sessions.keeping.LIFE_SECONDS", 0.05)
    for name in ("ROWS", "SAMPLES", "FAULTS", "PUSHES", "LAGS"):
        monkeypatch.setattr(f"chatpager.server.ledger.{name}", FEW)

    def forgetful(*sizes):
        runner = _scripted(*sizes)
        runner.steps = deque(maxlen=1)  # what the test's own model computed
        return runner

    monkeypatch.setattr(serving, "_scripted", forgetful)


async def ask(ws, number, **more):
    await ws.create(f"question {number}", max_output_tokens=3, **more)
    created = (await ws.until("response.created"))[-1]["response"]["id"]
    await ws.rest()
    return created


async def visit(server, numbers):
    """A client that comes, does a little of everything, and leaves. Returns the turns it began."""
    async with server.socket(extended=True) as ws:
        first = await ask(ws, next(numbers))
        await ask(ws, next(numbers), previous_response_id=first)
        await ask(ws, next(numbers), store=False)
        await ws.send(type="response.create", input=3)
        await ws.rest()
        await ws.send(type="chatpager.draft", input=f"a draft {next(numbers)}")
        talk = await server.conversation()
        await ask(ws, next(numbers), conversation=talk, metadata={"n": str(next(numbers))})
        await ws.create(f"cut {next(numbers)}", max_output_tokens=40)
        cut = (await ws.until("response.created"))[-1]["response"]["id"]
        ws.ws.transport.abort()
    async with server.socket(query=f"?response_id={cut}&starting_after=1") as ws:
        await ws.rest()
    await server.respond(f"over HTTP {next(numbers)}", max_output_tokens=3)
    answer = await server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": f"{next(numbers)}"}]})
    assert answer.status == 200
    await server.delete(f"/v1/conversations/{talk}")
    await server.delete(f"/v1/responses/{first}")
    await eventually(lambda: not server.hub.turns and not server.service.readers.alone)
    return 7


async def blocks_after(server, turns, numbers):
    while turns > 0:
        turns -= await visit(server, numbers)
    forget_libraries_caches()
    gc.collect()
    return sys.getallocatedblocks()


async def left_to_the_collector(server, numbers):
    """What turns on WebSockets, one of them cut off, leave that only refers to itself, by type. What is old by then
    stays until the collector looks through everything, once in many minutes: memory would go up and down with it."""
    gc.collect()
    gc.disable()
    try:
        async with server.socket(extended=True) as ws:
            await ask(ws, next(numbers))
        async with server.socket() as ws:
            await ws.create(f"cut {next(numbers)}", max_output_tokens=40)
            await ws.until("response.created")
            ws.ws.transport.abort()
        await eventually(lambda: not (server.hub.turns or server.app[CONNECTIONS] or server.service.readers.alone))
        await asyncio.sleep(0)  # of the last
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return {type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith(OURS)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def forget_libraries_caches():
    """Of the latest addresses and formats, by the hundred; the test's own client fills them too."""
    struct._clearcache()
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in LIBRARIES]:
        for one in vars(module).values():
            if isinstance(one, functools._lru_cache_wrapper):
                one.cache_clear()


def census():
    """Objects that the collector knows, by type."""
    return Counter(type(one).__qualname__ for one in gc.get_objects())


@pytest.mark.timeout(600)
async def test_turns_leave_nothing_that_has_no_bound(serve, small_caches):
    sizes = {"hub": {"replay_seconds": 0.02, "known_conversations": FEW}, "engine": {"known_conversations": FEW}}
    numbers = itertools.count()
    async with serve(lambda prompt: "one two three four", blocks=120, **sizes, detach_grace=0.1) as server:
        before = await blocks_after(server, 2 * TURNS, numbers)
        kept = []
        for _ in range(ROUNDS):
            known = census()
            after = await blocks_after(server, TURNS, numbers)
            kept.append((after - before) / TURNS)
            grown, before = (census() - known).most_common(12), after
        assert not (left := await left_to_the_collector(server, numbers)), left
        assert min(kept) < MOST_KEPT, f"blocks of memory that stay of a turn: {kept}; lately {json.dumps(grown)}"
