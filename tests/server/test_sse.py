"""Event streams on a real socket: comments while nothing comes, and an error in the stream where it breaks."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from chatpager.config import ServerConfig
from chatpager.errors import NumericError
from chatpager.server.access import add_headers, errors
from chatpager.server.metrics import Metrics
from chatpager.server.requests import Served
from chatpager.server.service import SERVICE, Service
from chatpager.server.sse import send_events
from chatpager.sessions.quotas import Quotas
from tests.serving import DEADLINE, eventually


@asynccontextmanager
async def streaming(frames, **seconds):
    """A server that streams ``frames()`` to whoever comes; gives the address."""

    async def route(request):
        return await send_events(request, frames(), lambda error: f"data: {error.code}: {error.message}")

    app = web.Application(middlewares=[errors()])
    hub = SimpleNamespace(attend=None, quotas=Quotas())
    app[SERVICE] = Service(ServerConfig(), hub, Served("tiny", {}, 512), Metrics(), 0, **seconds)
    app.router.add_get("/", route)
    app.on_response_prepare.append(add_headers)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def read(address):
    async with aiohttp.ClientSession() as http, asyncio.timeout(DEADLINE), http.get(address) as response:
        return response, (await response.text()).replace(": \n\n", "")


async def test_frames():
    async def frames():
        yield "data: one"
        yield "event: x\ndata: 你好"

    async with streaming(frames) as address:
        response, text = await read(address)
    assert text == "data: one\n\nevent: x\ndata: 你好\n\n"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"].startswith("req_")


async def test_comments_while_nothing_comes():
    enough = asyncio.Event()

    async def frames():
        yield "data: one"
        await enough.wait()
        yield "data: two"

    async with (
        streaming(frames, keepalive_seconds=0.01) as address,
        aiohttp.ClientSession() as http,
        asyncio.timeout(DEADLINE),
        http.get(address) as response,
    ):
        seen = b""
        while seen.count(b": \n\n") < 4:
            seen += await response.content.readany()
        enough.set()
        seen += await response.content.read()
    assert seen.replace(b": \n\n", b"") == b"data: one\n\ndata: two\n\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("secret"), "data: internal_error: internal error\n\n"),
        (NumericError("not numbers"), "data: engine_numeric_error: not numbers\n\n"),
    ],
)
async def test_an_error_once_the_headers_are_sent_ends_the_stream_with_its_frame(error, told):
    closed = asyncio.Event()

    async def frames():
        try:
            yield "data: one"
            raise error
        finally:
            closed.set()

    async with streaming(frames) as address:
        response, text = await read(address)
    assert (response.status, text) == (200, "data: one\n\n" + told)
    assert closed.is_set()


async def test_a_reader_that_leaves_closes_the_frames():
    closed = asyncio.Event()

    async def frames():
        try:
            while True:
                yield "data: " + "x" * 1000
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with streaming(frames) as address, aiohttp.ClientSession() as http:
        async with http.get(address) as response:
            await response.content.readany()
            response.close()
        await eventually(closed.is_set)
