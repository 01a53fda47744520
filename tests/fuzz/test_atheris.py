"""The fuzzers themselves, as the command line starts them: ``make test-reliability``, for a release with
``FUZZ_RUNS=10000000``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.fetching import fetched, pip_into
from tests.fuzz.test_targets import RUNS
from tests.processes import ROOT

INPUTS = int(os.environ.get("CHATPAGER_FUZZ_RUNS", "100000"))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", RUNS)
def test_the_fuzzer_finds_nothing(name):
    folder = fetched("atheris-3", pip_into("atheris==3.0.0"), "atheris")
    script = Path(__file__).with_name(f"fuzz_{name}.py")
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run([sys.executable, script, f"-runs={INPUTS}"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"Done {INPUTS} runs" in done.stderr
