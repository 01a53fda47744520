"""What is wrong with a start is told before torch is imported, where that can be: it takes seconds."""

import socket
import subprocess
import sys

import pytest

from tests.processes import clean_env

START = """
import sys
from chatpager.cli import main
try:
    main()
finally:
    print("heavy:", *{"torch", "transformers"} & set(sys.modules))
"""
# The arguments, for an empty folder and a port that is taken -> what the line says.
WRONG = {
    "a folder that is missing": (lambda empty, port: ["serve", empty / "nowhere"], "no such folder"),
    "a folder without a model": (lambda empty, port: ["serve", empty], "config.json"),
    "a port that is taken": (lambda empty, port: ["demo", "--port", port], "--port"),
    "a host of another machine": (lambda empty, port: ["demo", "--host", "192.0.2.1", "--insecure"], "--host"),
    "an open door": (lambda empty, port: ["demo", "--host", "0.0.0.0", "--port", 0], "--api-key"),
    "a name that the hub does not give": (lambda empty, port: ["serve", "some/model", "--port", 0], "the hub did not"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_before_torch_is_imported(tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv = map(str, arguments(tmp_path / "empty", taken.getsockname()[1]))
        env = clean_env(tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
        done = subprocess.run(
            [sys.executable, "-c", START, *argv], env=env, cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode in (1, 2)
    assert words in done.stderr.splitlines()[-1], done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"
