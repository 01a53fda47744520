"""A thread that ends under coverage's tracer must not call back into Python: see keep_greenlets.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The callback does what a second ending thread would do at the worst moment: it makes another pending call due.
PROGRAM = """
import ctypes, gc, threading, weakref, greenlet

due = ctypes.pythonapi.Py_AddPendingCall
nothing = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
called, held = [], []

def traced():
    pass

def freed(_):
    called.append(True)
    due(nothing, None)
    traced()

def live():
    held.append(weakref.ref(greenlet.getcurrent(), freed))

if FROZEN:
    gc.freeze()
for _ in range(20):
    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
for _ in range(10_000):
    traced()
print(len(held), len(called))
"""


@pytest.mark.parametrize("frozen", [False, True], ids=["", "where the collector was told to pass over what there is"])
def test_ended_threads_greenlets_are_not_freed_under_the_tracer(tmp_path, frozen):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("FROZEN", str(frozen)))
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={ROOT / 'pyproject.toml'}", str(program)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COV")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["20", "0"], done.stderr
