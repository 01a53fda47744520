"""Agent frameworks, as their users write them, in a process with those packages.

These are half a gigabyte and take minutes to fetch the first time, so they are not tried on every commit:
``pytest -m slow tests/e2e/test_frameworks.py``
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.fetching import fetched, pip_into
from tests.processes import ROOT

PACKAGES = (
    "google-adk==2.13.0", "litellm==1.110.2", "openai-agents==0.20.0", "langchain-openai==1.7.4", "langgraph==1.2.24",
)  # fmt: skip
"""They hold openai below 3 and websockets below 16, so that is tried here too."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder():
    return fetched("frameworks", pip_into(*PACKAGES), "langgraph")


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
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, script, server_url], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("is content\n")
