"""A server's process: what it has loaded is looked at by no collection, and not taken apart at its end."""

import os
import signal
import subprocess
import sys

from tests.processes import ADDRESS, Output, clean_env

PROGRAM = """
import atexit, gc, os, sys

class Loaded:
    def __del__(self):
        os.write(1, b"taken apart\\n")

loaded = Loaded()
atexit.register(lambda: print("at exit:", gc.isenabled(), gc.get_freeze_count() > 100_000))
from chatpager.cli import main
main()
"""


def run(home, *argv):
    command = [sys.executable, "-c", PROGRAM, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env(home), cwd=home)


def test_a_server_goes_without_taking_apart_what_it_has_loaded(tmp_path):
    with run(tmp_path, "demo", "--port", "0") as process:
        out = Output(os.dup(process.stdout.fileno()))
        out.wait_for(ADDRESS)
        process.send_signal(signal.SIGTERM)
        said = out.whole()
        assert process.wait() == 0
        phases = process.stderr.read().decode().splitlines()
    assert [line.split()[:2] for line in phases] == [["chatpager:", "starting"], ["chatpager:", "loading"]]
    assert "compiles kernels for this machine" in phases[1]
    assert said.splitlines()[-1] == "at exit: True True"
    assert "taken apart" not in said


def test_so_does_a_command_that_looks_at_a_model_and_its_exit_code_stays(tmp_path):
    for argv, code in ((("--port", "0"), 0), (("--host", "192.0.2.1"), 1)):
        with run(tmp_path, "doctor", *argv) as process:
            said, failed = process.communicate()
        assert (process.returncode, failed) == (code, b"")
        assert said.decode().splitlines()[-1].startswith("at exit:")


def test_one_that_only_reads_settings_ends_as_every_program(tmp_path):
    with run(tmp_path, "config", "show") as process:
        said, _ = process.communicate()
    assert said.decode().splitlines()[-2:] == ["at exit: True False", "taken apart"]
