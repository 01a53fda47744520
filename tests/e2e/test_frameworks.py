"""Agent frameworks, as their users write them, in a process with those packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.fetching import fetched, pip_into
from tests.processes import ROOT

PACKAGES = (
    "google-adk==2.13.0", "litellm==1.110.2", "openai-agents==0.20.0", "langchain-openai==1.7.4", "langgraph==1.2.24",
)  # fmt: skip
"""They hold openai below 3 and websockets below 16, so that is tried here too."""


@pytest.fixture(scope="module")
def folder():
    return fetched("frameworks", pip_into(*PACKAGES), "langgraph")


@pytest.mark.parametrize("client", ["openai_agents", "langgraph", "adk"])
def test_agents_that_take_turns_share_what_was_computed(server_url, folder, client):
    script = Path(__file__).with_name(f"client_of_{client}.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, script, server_url], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("is content\n")
