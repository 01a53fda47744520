"""A slow reader gets every frame, in the one order."""

import asyncio

from chatpager.server.websocket import CONNECTIONS
from tests.serving import eventually


async def test_a_frame_that_waits_for_its_reader_holds_back_those_behind_it(server):
    """The first response's last frames are stuck when the second one streams."""
    async with server.socket() as socket:
        await eventually(lambda: server.app[CONNECTIONS])
        [connection] = server.app[CONNECTIONS]
        reader_takes_more = asyncio.Event()
        send = connection._ws.send_within

        async def send_slowly(seconds, frames):
            if any(b'"response.output_text.done"' in frame for frame in frames):
                await reader_takes_more.wait()
            await send(seconds, frames)

        connection._ws.send_within = send_slowly
        await socket.create("one")
        await socket.create("two")
        ended = server.service.metrics._turns.labels("response", "incomplete")._value
        await eventually(lambda: ended.get() == 2)
        reader_takes_more.set()
        for _ in range(2):
            frames = await socket.rest()
            assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
            assert frames[0]["type"] == "response.created"
            assert len({frame["response"]["id"] for frame in frames if "response" in frame}) == 1


async def test_frames_of_the_reading_loop_stand_between_whole_frames(server):
    async with server.socket() as socket:
        await socket.create("one")
        for _ in range(20):
            await socket.send(type="response.steer")
        frames = []
        while len(frames) < 21 or "response.incomplete" not in [frame["type"] for frame in frames]:
            frames.append(await socket.receive())
    numbers = [frame["sequence_number"] for frame in frames if frame["type"] != "error"]
    assert numbers == list(range(len(numbers)))
    assert len(frames) - len(numbers) == 20
