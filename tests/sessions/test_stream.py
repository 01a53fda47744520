import asyncio

import pytest

from chatpager.sessions.answers import Delta
from chatpager.sessions.stream import Ended, Started, Timings, TurnStream

TIMINGS = Timings(queue_ms=0, prefill_ms=0, ttft_ms=None, decode_tok_s=None, total_ms=1)
END = Ended(
    status="completed",
    finish="stop",
    at=1,
    text="ab",
    output_tokens=2,
    receipt=None,
    cache_write_tokens=0,
    timings=TIMINGS,
)
LOG = [Started("t", 1), Delta("a"), Delta("b"), END]


async def collect(stream, since=0):
    return [event async for event in stream.follow(since)]


async def test_every_reader_sees_every_event_in_order_whenever_it_comes():
    stream = TurnStream()
    early = asyncio.ensure_future(collect(stream))
    for event in LOG:
        await asyncio.sleep(0)
        stream.append(event)
    assert await early == LOG
    assert await collect(stream) == LOG
    assert await collect(stream, 2) == LOG[2:]
    assert await collect(stream, 4) == []


async def test_readers_that_wait_are_all_woken():
    stream = TurnStream()
    readers = [asyncio.ensure_future(collect(stream)) for _ in range(5)]
    await asyncio.sleep(0)
    for event in LOG:
        stream.append(event)
    assert all([await reader == LOG for reader in readers])


async def test_a_slow_reader_holds_up_nobody():
    stream = TurnStream()
    slow = stream.follow()
    stream.append(LOG[0])
    assert await anext(slow) == LOG[0]
    for event in LOG[1:]:
        stream.append(event)
    assert await stream.end() == END
    assert [event async for event in slow] == LOG[1:]


async def test_the_end_can_be_waited_for_before_and_after():
    stream = TurnStream()
    waiting = asyncio.ensure_future(stream.end())
    await asyncio.sleep(0)
    assert stream.ended is None
    for event in LOG:
        stream.append(event)
    assert await waiting == END
    assert await stream.end() == END


async def test_nothing_comes_after_the_end():
    stream = TurnStream()
    stream.append(END)
    with pytest.raises(AssertionError, match="after the end"):
        stream.append(Delta("c"))
