"""openai 3.x loses its socket at any byte of an answer, and misses nothing; and its lanes."""

import os
import random
from itertools import pairwise

import openai
import pytest

from chatpager.bench.faults import cutting

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
CUTS = int(os.environ.get("CHATPAGER_CUTS", "60"))
SEED = int(os.environ.get("CHATPAGER_CUT_SEED", "4"))
TERMINAL = ("response.completed", "response.incomplete", "response.failed")
WANTED = {"model": "default", "temperature": 0.0, "max_output_tokens": 24, "ignore_eos": True}


async def test_cuts_lose_and_double_nothing(server_url):
    rng = random.Random(SEED)
    port = int(server_url.rpartition(":")[2])
    async with cutting(port) as cutter, openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="-") as direct:
        through = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{cutter.port}/v1", api_key="-")
        async with through:
            while cutter.cuts < CUTS:
                before = cutter.cuts
                events = await answer(through, cutter, rng)
                assert [event.sequence_number for event in events] == list(range(len(events)))
                text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
                stored = await direct.responses.retrieve(events[0].response.id)
                assert text == stored.output_text == events[-1].response.output_text
                assert events[-1].type == "response.incomplete", f"after {cutter.cuts - before} cuts"


async def answer(client, cutter, rng):
    """One response's events over a socket that is cut after a random number of bytes, and sometimes again."""
    events = []

    def go_on(_):
        cutter.cut_in(rng.randint(300, 6000)) if rng.random() < 0.3 else cutter.never()
        return {"extra_query": {"response_id": events[0].response.id, "starting_after": events[-1].sequence_number}}

    cutter.never()
    async with client.responses.connect(on_reconnecting=go_on, initial_delay=0.001, max_delay=0.001) as connection:
        await connection.send({"type": "response.create", "input": f"My name is Ada {rng.random()}.", **WANTED})
        async for event in connection:
            events.append(event)
            if len(events) == 1:
                cutter.cut_in(rng.randint(0, 6000))
            if event.type in TERMINAL:
                break
    return events


async def test_two_lanes_at_once_of_which_one_forks_from_the_other(server_url):
    async with (
        openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="-") as client,
        client.beta.responses.connect() as connection,
    ):
        create = {"type": "response.create", **WANTED, "max_output_tokens": 150}  # or one ends before the other begins
        story = "My name is Ada and I live in Oslo. I like tea and rain. Please remember all of it."
        await connection.send({**create, "input": story, "stream_id": "one"})
        first = (await until_ended(connection, 1))["one"]
        parent = first[-1].response
        await connection.send({**create, "input": "Tell me more.", "stream_id": "one"})
        fork = {"input": "Where do I live?", "previous_response_id": parent.id, "stream_id": "two"}
        await connection.send({**create, **fork})
        order = []
        lanes = await until_ended(connection, 2, order)
    for events in (first, *lanes.values()):
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert all("Ws" in type(event).__name__ for event in events)
    assert sum(a != b for a, b in pairwise(order)) > 4, "they came side by side"
    fork = lanes["two"][-1].response
    held = parent.usage.total_tokens - 1
    assert fork.usage.input_tokens_details.cached_tokens >= held // 16 * 16 > 0


async def until_ended(connection, count, order=None):
    """Events by lane, until so many responses have ended."""
    lanes, order = {}, [] if order is None else order
    async for event in connection:
        assert event.type != "error", event
        lanes.setdefault(event.stream_id, []).append(event)
        order.append(event.stream_id)
        count -= event.type in TERMINAL
        if not count:
            return lanes
    raise AssertionError("the socket ended before the answers")
