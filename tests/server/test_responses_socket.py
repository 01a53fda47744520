"""Frames that are written past aiohttp are those that it would have written."""

import aiohttp
from aiohttp import web

from chatpager.server.responses_socket import SMALL, ResponsesSocket
from tests.serving import eventually

SIZES = (0, 1, 125, 126, 127, 65535, 65536, 65537)


async def opened(handler):
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"ws://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/"


async def socket_for(request):
    socket = ResponsesSocket(max_message_bytes=1 << 20, close_seconds=5.0, send_seconds=5.0, frames_per_second=100.0)
    await socket.prepare(request)
    return socket


async def test_frames_of_every_size_come_whole_and_in_order():
    frames = [bytes([97 + i]) * size for i, size in enumerate(SIZES)]

    async def tell(request):
        socket = await socket_for(request)
        for frame in frames:
            socket.write_frames([frame])
        socket.write_frames(frames)
        await socket.send_within(5.0, frames)
        await socket.close()
        return socket

    runner, url = await opened(tell)
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=1 << 20) as client:
            got = [(await client.receive()).data.encode() for _ in range(3 * len(frames))]
            assert got == frames * 3
            assert (await client.receive()).type is aiohttp.WSMsgType.CLOSE
    finally:
        await runner.cleanup()


async def test_there_is_room_while_the_client_takes_what_it_gets_and_none_once_it_is_closed():
    seen = []

    async def tell(request):
        socket = await socket_for(request)
        seen.append(socket.has_room())
        while socket.has_room():
            socket.write_frames([b"x" * SMALL])
        seen.append(socket._pipe.get_write_buffer_size() <= 2 * SMALL + 16)
        socket.cut()
        seen.append(socket.has_room())
        return socket

    runner, url = await opened(tell)
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(url):
            await eventually(lambda: len(seen) == 3)
    finally:
        await runner.cleanup()
    assert seen == [True, True, False]
