"""RFC 6455 by the Autobahn suite's own cases (kosoku drives them), on a socket with our settings that echoes."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web

from chatpager.config import ServerConfig
from chatpager.server.connections import make_runner
from chatpager.server.responses_socket import ResponsesSocket
from chatpager.server.service import Service
from tests.e2e.fetching import fetched, pip_into

VERSION = "0.1.0"
KNOWN = "7.9.5"
"""aiohttp takes a close frame with the code 1006, which stands for there being none."""
GROUPS = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
LARGEST = (16 << 20) + 1
"""Bytes of the largest message of all cases, which has to be below the limit."""


@asynccontextmanager
async def echoing(limit=ServerConfig.max_message_bytes, said=lambda text: text):
    """A server whose only route sends back what it gets; its address."""

    async def echo(request):
        socket = ResponsesSocket(
            max_message_bytes=limit, close_seconds=5.0, send_seconds=30.0, frames_per_second=Service.frames_per_second
        )
        await socket.prepare(request)
        async for message in socket.frames():
            if message.type is WSMsgType.TEXT:
                await socket.send_within(30.0, [said(message.data).encode()])
            else:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/", echo)
    runner = make_runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def run_cases(address, folder, *, include=(), exclude=()):
    """The exit code, what was said, and what the report says of each case."""
    client = fetched(f"kosoku-{VERSION}", pip_into(f"kosoku=={VERSION}"), "bin/kosoku")
    chosen = [f"-{flag}{case}" for flag, cases in (("i", include), ("x", exclude)) for case in cases]
    process = await asyncio.create_subprocess_exec(
        sys.executable, client / "bin" / "kosoku", "-p", "2", "-o", folder, *chosen, address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(client)},
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    (cases,) = json.loads((folder / "index.json").read_text()).values()
    return process.returncode, said.decode(), cases


async def test_every_case_of_the_frames_is_passed(tmp_path):
    """Groups 1 to 7 and 10: framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, cutting."""
    async with echoing() as address:
        code, said, cases = await run_cases(address, tmp_path, include=GROUPS, exclude=[KNOWN])
    assert code == 0, said
    assert len(cases) == 246
    assert {found["behavior"] for found in cases.values()} <= PASSED


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_every_case_is_passed(tmp_path):
    """Those of compression, groups 12 and 13, find that none is offered."""
    async with echoing(LARGEST) as address:
        _, said, cases = await run_cases(address, tmp_path, exclude=[KNOWN])
    assert len(cases) == 516
    unoffered = {case for case, found in cases.items() if found["behavior"] == "UNIMPLEMENTED"}
    assert unoffered == {case for case in cases if case.startswith(("12.", "13."))}, said
    assert {found["behavior"] for case, found in cases.items() if case not in unoffered} <= PASSED, said


async def test_the_case_that_is_left_out_still_fails(tmp_path):
    async with echoing() as address:
        code, said, cases = await run_cases(address, tmp_path, include=[KNOWN])
    assert code == 1 and KNOWN in said
    assert list(cases) == [KNOWN]


async def test_an_echo_that_lies_is_found_out(tmp_path):
    """What the tests above would miss otherwise."""
    async with echoing(said=lambda text: text[1:]) as address:
        code, said, _ = await run_cases(address, tmp_path, include=["1.1.2", "1.2.2"])
    assert code == 1 and "1.1.2" in said and "1.2.2" not in said
