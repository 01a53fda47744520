"""A server is told to end while three clients read: they hear their answers out, or hear why not, and go on."""

import asyncio
import json
import signal

import openai
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.gate import DEADLINE
from tests.processes import free_port, serving

WANTED = {"model": "default", "temperature": 0.0, "ignore_eos": True}
ENDS = ("response.completed", "response.incomplete", "response.failed")


async def by_websockets(url, tokens, begun):
    """The frames of one answer, and the code with which the socket closes."""
    frames = []
    async with connect(url.replace("http", "ws") + "/v1/responses") as socket:
        await socket.send(
            json.dumps({"type": "response.create", "input": "Hello", "max_output_tokens": tokens, **WANTED})
        )
        try:
            while True:
                frames.append(json.loads(await socket.recv()))
                begun.release() if len(frames) == 5 else None
        except ConnectionClosed as closed:
            return frames, closed.rcvd.code


async def by_openai_over_http(url, tokens, begun):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:
        body = {"ignore_eos": True}
        stream = await client.responses.create(
            model="default", input="Hello there", stream=True, max_output_tokens=tokens, extra_body=body
        )
        events = []
        async for event in stream:
            events.append(event)
            begun.release() if len(events) == 5 else None
        return events


async def by_openai_over_a_socket(url, tokens, begun):
    """Reconnects where the socket is lost, and goes on behind the last event."""
    events = []

    def go_on(_):
        return {"extra_query": {"response_id": events[0].response.id, "starting_after": events[-1].sequence_number}}

    patient = {"initial_delay": 0.2, "max_delay": 1.0, "max_retries": 60}
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client,
        client.responses.connect(on_reconnecting=go_on, **patient) as connection,
    ):
        await connection.send({"type": "response.create", "input": "Hello you", "max_output_tokens": tokens, **WANTED})
        async for event in connection:
            events.append(event)
            begun.release() if len(events) == 5 else None
            if event.type in ENDS or event.type == "error":
                break
    return events


async def three_streams(server, tokens):
    """What the three hear of a server that is told to end once each of them reads; and its exit code."""
    begun = asyncio.Semaphore(0)
    clients = (by_websockets, by_openai_over_http, by_openai_over_a_socket)
    reading = [asyncio.create_task(client(server.url, tokens, begun)) for client in clients]
    async with asyncio.timeout(DEADLINE):
        for _ in reading:
            await begun.acquire()
        server.process.send(signal.SIGTERM)
        code = await asyncio.to_thread(server.process.wait)
        return code, [await one for one in reading]


def ends(heard):
    (frames, code), over_http, over_socket = heard
    assert code == 1012
    last = [frames[-1]["response"], *(events[-1].response.to_dict() for events in (over_http, over_socket))]
    for numbers in (
        [frame["sequence_number"] for frame in frames],
        *([event.sequence_number for event in events] for events in (over_http, over_socket)),
    ):
        assert numbers == list(range(len(numbers)))
    return last


async def test_a_drain_lets_all_three_hear_their_answers_out(fork_server, tmp_path):
    with serving(fork_server, tmp_path, "--drain-seconds", "30") as server:
        code, heard = await three_streams(server, tokens=60)
    assert code == 0, server.process.err.text
    assert [response["status"] for response in ends(heard)] == ["incomplete"] * 3


async def test_without_the_time_for_it_all_three_hear_why_and_the_next_server_has_what_was_said(fork_server, tmp_path):
    port = str(free_port())
    with serving(fork_server, tmp_path, "--drain-seconds", "0", "--port", port) as server:
        code, heard = await three_streams(server, tokens=4000)
    assert code == 0, server.process.err.text
    last = ends(heard)
    assert [response["error"]["code"] for response in last] == ["server_restarted"] * 3
    with serving(fork_server, tmp_path, "--port", port) as server:
        for response in last:
            kept = server.get("/v1/responses/" + response["id"])
            assert kept["output"] == response["output"] and kept["status"] == "failed"
