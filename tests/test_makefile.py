"""``make demo`` says what it is doing before it takes long, and what failed when it does.

The Makefile is the real one; in its checkout Python, pip and the page's build are scripts that say what they are asked
for, because the real ones fetch gigabytes.
"""

import os
import shutil
import subprocess

import pytest

from tests.processes import ROOT

PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m pip") echo "pip $*"; [ -z "$PIP_FAILS" ] || { echo "ERROR: $PIP_FAILS" >&2; exit 1; };;
  "-c "*) echo "kernels";;
  *) echo "python $*";;
esac
"""
CREATE_VENV = """#!/bin/sh
echo "venv $2"
mkdir -p "$2/bin" && cp python chatpager "$2/bin"
"""
PHASES = [
    "1/4 making .venv",
    "venv .venv",
    "2/4 installing what it needs (torch alone is 200 MB: this takes minutes)",
    "pip -m pip install -q --no-deps --require-hashes -r .ci/locked.txt",
    "pip -m pip install -q -c .ci/constraints.txt --no-build-isolation -e .",
    "2/4 compiling the CPU's kernels (a minute or two)",
    "kernels",
    "3/4 the page",
    "python web/hatch_build.py --optional",
    "4/4 starting",
    "chatpager demo",
]


@pytest.fixture
def make(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".ci").mkdir()
    for name in ("pyproject.toml", ".ci/constraints.txt", ".ci/locked.txt"):
        (tmp_path / name).write_text("")
    scripts = {"python": PYTHON, "chatpager": '#!/bin/sh\necho "chatpager $*"\n', ".ci/create-venv": CREATE_VENV}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(target, **env):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        done = subprocess.run(["make", target], cwd=tmp_path, env={**kept, **env}, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


def test_each_phase_is_told_before_it_begins_and_what_is_done_is_not_done_again(make):
    assert make("demo") == (0, PHASES, "")
    assert make("demo") == (0, PHASES[-4:], "")


def test_what_pip_says_is_seen_and_nothing_is_started(make):
    code, said, failed = make("demo", PIP_FAILS="no matching distribution")
    assert code != 0
    assert said[-1] == PHASES[3]
    assert "ERROR: no matching distribution" in failed


def test_other_targets_do_not_count(make):
    _, said, _ = make("page")
    assert said == ["making .venv", "venv .venv", "the page", "python web/hatch_build.py --optional"]
