"""Clients that people have: openai 2.x, the websockets package bare, wscat."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.e2e.fetching import fetched, package
from tests.processes import Output

SECONDS = 120


def test_openai_2_works_as_its_users_write_it(server_url):
    folder = package("openai-2")
    script = Path(__file__).with_name("client_of_openai_2.py")
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, script, f"{server_url}/v1"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"openai 2\.\S+ is content\n", done.stdout)


async def test_websockets_bare(server_url):
    async with connect(server_url.replace("http", "ws") + "/v1/responses", ping_interval=1, ping_timeout=60) as socket:
        await socket.send(json.dumps({"type": "response.create", "input": "你好😀", "temperature": 0}))
        events = []
        async for frame in socket:
            assert isinstance(frame, str) and "\n" not in frame
            events.append(json.loads(frame))
            if events[-1]["type"] == "response.completed":
                break
        assert not any(event["type"].startswith("chatpager.") for event in events)
        assert "".join(e.get("delta", "") for e in events) == events[-1]["response"]["output"][0]["content"][0]["text"]


async def test_websockets_with_our_subprotocol_gets_our_events(server_url):
    address = server_url.replace("http", "ws") + "/v1/responses"
    async with connect(address, subprotocols=["chatpager.v1"]) as socket:
        assert socket.subprotocol == "chatpager.v1"
        words = " ".join(f"ours{n}" for n in range(700))  # some 3,400 tokens: longer than the wait for the first event
        await socket.send(
            json.dumps({"type": "response.create", "input": words, "max_output_tokens": 1, "ignore_eos": True})
        )
        kinds = []
        async for frame in socket:
            kinds.append(json.loads(frame)["type"])
            if kinds[-1] in ("response.incomplete", "error"):
                break
        assert "chatpager.prefill" in kinds


@pytest.fixture(scope="session")
def wscat():
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("NOT TESTED with wscat: no npm on this machine")
    install = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--no-save", "wscat@6.1.0", "--prefix"]
    return fetched("wscat-6", install, "node_modules/.bin/wscat") / "node_modules" / ".bin" / "wscat"


def test_wscat_asks_from_its_command_line(server_url, wscat):
    """As docs/protocol.md has it. wscat ends by itself, ``-w`` seconds after it has sent."""
    address = server_url.replace("http", "ws") + "/v1/responses"
    create = json.dumps({"type": "response.create", "input": "Hello"})
    ours, theirs = os.openpty()
    command = [wscat, "-c", address, "-x", create, "-w", "2"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said = Output(ours)
    said.wait_for(r'"type": ?"response.created"')
    said.wait_for(r'"type": ?"response.completed"')
    assert process.wait(SECONDS) == 0
    assert len(re.findall(r'"type": ?"response.(?:completed|incomplete|failed)"', said.whole())) == 1


def test_wscat_talks_from_a_terminal(server_url, wscat):
    address = server_url.replace("http", "ws") + "/v1/responses"
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [wscat, "--no-color", "-c", address], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = Output(ours)
    try:
        said.wait_for("Connected")
        os.write(ours, b'{"type": "response.create", "input": "Hello"}\r')
        said.wait_for(r'"type": ?"response.completed"')
        for _ in range(2):
            first_heard_is_created(ours, said)
        os.write(ours, b"not json\r")
        said.wait_for("invalid_json")
        os.write(ours, b"\x04")
        assert process.wait(SECONDS) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    said.whole()


def first_heard_is_created(terminal, said):
    """And what is heard until the end is whole characters."""
    heard = len(said.text)
    os.write(terminal, '{"type": "response.create", "input": "你好😀"}\r'.encode())
    first = said.wait_for(r'< \{"type": ?"([a-z._]+)"', after=heard)
    assert first[1] == "response.created"
    end = said.wait_for(r'"type": ?"response\.(?:completed|incomplete|failed)"', after=heard)
    assert "\N{REPLACEMENT CHARACTER}" not in said.text[heard : end.end()]
