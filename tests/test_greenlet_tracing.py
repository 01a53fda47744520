"""What runs in greenlets is measured as well as everything else, and no thread's end calls back into Python: see
greenlet_tracing.py."""

import os
import subprocess
import sys
from pathlib import Path

import coverage

from tests.gate import DEADLINE

ROOT = Path(__file__).parents[1]
PROGRAM = """
import asyncio, threading, weakref, greenlet
from sqlalchemy.util import await_only, greenlet_spawn

def statement(times):
    rows = 0
    for _ in range(times):
        await_only(asyncio.sleep(0))
        rows += 1
    if rows > 100:
        rows = "never"
    return rows

async def turn(times):
    rows = await greenlet_spawn(statement, times)
    if rows > 100:
        rows = "never"
    return rows

async def turns():
    return await asyncio.gather(turn(2), turn(3))

def run():
    rows = asyncio.run(turns())
    held.append([*rows, weakref.getweakrefcount(greenlet.getcurrent())])

held = []
for _ in range(3):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
run()
print(held)
"""


def test_greenlets_in_threads_are_measured_and_no_threads_main_one_is_held(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    rules = f"--rcfile={ROOT / 'pyproject.toml'}"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COV")} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "coverage", "run", rules, "--source=.", program.name]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout == f"{[[2, 3, 0]] * 4}\n", done.stderr

    measured = coverage.Coverage(data_file=str(tmp_path / ".coverage"), config_file=False, branch=True)
    measured.combine([str(tmp_path)])
    _, _, _, missing, _ = measured.analysis2(str(program))
    assert [PROGRAM.splitlines()[line - 1].strip() for line in missing] == ['rows = "never"'] * 2
    taken = {line: counts for line, counts in measured.branch_stats(str(program)).items() if counts[0] != counts[1]}
    assert [PROGRAM.splitlines()[line - 1].strip() for line in taken] == ["if rows > 100:"] * 2
