"""Agent frameworks, as their users write them, in a process with those packages."""

import asyncio
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from chatpager.server.websocket import CONNECTIONS
from tests.chat_models import TOOLS_CHATML, save_tokenizer
from tests.e2e.fetching import package
from tests.processes import ROOT, traced
from tests.serving import eventually

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder():
    return package("frameworks")


def test_the_bench_tells_what_they_share(folder, tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    out = tmp_path / "agents.json"
    sizes = ["--only", "langgraph", "--head", "600", "--answer", "4", "--rounds", "1", "--out", str(out)]
    command = [sys.executable, "-m", "chatpager", "bench", "agents", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    [measured] = json.loads(out.read_text())["frameworks"].values()
    for first, second in pairwise(measured["shared"]):
        assert second["cached_tokens"] >= first["prompt_tokens"] - 16
    assert all(call["cached_tokens"] == 0 for call in measured["nothing cached"])
    assert measured["plain"][1]["cached"] < 0.5 < measured["shared"][1]["cached"]


@pytest.mark.parametrize("client", ["openai_agents", "langgraph", "adk"])
def test_agents_that_take_turns_share_what_was_computed(server_url, folder, client):
    script = Path(__file__).with_name(f"client_of_{client}.py")
    env = {**os.environ, **traced(), "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, script, server_url], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("is content\n")


CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "weather in Oslo"}}\n</tool_call>'


def agent(prompt):
    if "Tell a long story." in prompt:
        return "on and " * 100
    return "It rains." if "<tool_response>\nRain" in prompt else CALL


async def test_an_agent_calls_a_tool_and_a_run_that_is_given_up_frees_its_blocks(serve, folder, tmp_path):
    model = save_tokenizer(tmp_path / "tool-model", TOOLS_CHATML)
    script = Path(__file__).with_name("client_of_openai_agents_tools.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    pipe = asyncio.subprocess.PIPE
    async with serve(agent, model=model, blocks=400, length=1500) as server:
        command = [sys.executable, str(script), server.url]
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        try:
            said = await asyncio.wait_for(process.stdout.readline(), 300)
            assert said == b"called\n", (await process.stderr.read()).decode()
            server.gate.hold(after=6)
            process.stdin.write(b"go\n")
            turn = await server.live_turn()
            assert await process.stdout.readline() == b"given up\n"
            assert await process.wait() == 0
            await eventually(lambda: not server.app[CONNECTIONS])
            server.gate.open()
            assert (await server.turn_ended(turn)).status == "cancelled"
            await eventually(lambda: not server.hub.turns)
            assert (await server.hub.engine.stats()).memory.active == 0
        finally:
            if process.returncode is None:
                process.kill()
