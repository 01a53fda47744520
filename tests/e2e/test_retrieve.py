"""openai 3.x reads a response's events again: while it runs, after its end, after a restart, and too late."""

import asyncio
import time

import openai
import pytest

WANTED = {"model": "default", "input": "My name is Ada.", "max_output_tokens": 24, "temperature": 0.0}
WHOLE = {**WANTED, "extra_body": {"ignore_eos": True}}
WINDOW = 300.0


def client_of(server):
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)


async def told(client, id, after):
    stream = await client.responses.retrieve(id, stream=True, starting_after=after)
    return [event async for event in stream]


async def test_the_same_events_are_told_while_it_runs_and_after_its_end(serve):
    async with serve() as server, client_of(server) as client:
        server.gate.hold(after=6)
        stream = await client.responses.create(**WHOLE, stream=True)
        live = [await anext(stream) for _ in range(5)]
        id = live[0].response.id
        during = [asyncio.create_task(told(client, id, after)) for after in (0, 3)]
        server.gate.open()
        live += [event async for event in stream]
        assert [event.sequence_number for event in live] == list(range(len(live)))
        assert [await one for one in during] == [live[1:], live[4:]]
        for after in (0, 7, len(live) - 2):
            assert await told(client, id, after) == live[after + 1 :]


async def test_after_the_window_and_after_a_restart_there_is_the_whole(serve):
    passed = 0.0

    def clock():
        return time.monotonic() + passed

    async with serve(hub={"replay_seconds": WINDOW, "clock": clock}) as server, client_of(server) as client:
        made = await client.responses.create(**WHOLE)
        last = (await told(client, made.id, 0))[-1]
        assert last.response == made
        passed = WINDOW - 30
        assert (await told(client, made.id, 0))[-1] == last
        passed = WINDOW + 1
        await gone(client, made)
    async with serve() as server, client_of(server) as client:
        await gone(client, made)


async def test_the_next_response_goes_on_from_one_of_before_a_restart(serve):
    async with serve() as server, client_of(server) as client:
        first = await client.responses.create(**WHOLE)
    async with serve() as server, client_of(server) as client:
        again = {**WHOLE, "input": "What is my name?"}
        second, third = [await client.responses.create(**again, previous_response_id=first.id) for _ in range(2)]
        for response, cached in ((second, 0), (third, second.usage.input_tokens - 1)):
            details = response.usage.input_tokens_details
            assert (type(details.cached_tokens), type(details.cache_write_tokens)) == (int, int)
            assert details.cached_tokens == cached
        assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
        with pytest.raises(openai.NotFoundError) as refused:
            await client.responses.create(**again, previous_response_id="resp_never")
        assert refused.value.code == "previous_response_not_found"


async def test_what_a_restart_cut_off_is_told_as_such(serve, monkeypatch):
    async with serve(drain_seconds=0.05) as server, client_of(server) as client:
        server.gate.hold(after=4)
        stream = await client.responses.create(**WHOLE, stream=True)
        first = await anext(stream)
        stop = server.hub.engine.stop

        async def stops():
            stopping = asyncio.ensure_future(stop())
            await asyncio.sleep(0)  # it has said so to the engine by then, and waits for it
            server.gate.open()
            await stopping

        monkeypatch.setattr(server.hub.engine, "stop", stops)
        closing = asyncio.ensure_future(server.close())
        *_, last = [event async for event in stream]
        await closing
    assert (last.type, last.response.error.code) == ("response.failed", "server_restarted")
    async with serve() as server, client_of(server) as client:
        await gone(client, last.response)
    assert first.response.id == last.response.id


async def gone(client, made):
    with pytest.raises(openai.APIStatusError) as refused:
        await told(client, made.id, 0)
    assert (refused.value.status_code, refused.value.code) == (410, "response_events_expired")
    assert await client.responses.retrieve(made.id) == made
