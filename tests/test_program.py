"""The name by which this program calls itself is one by which a shell finds it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chatpager.program import program, python

SCRIPT = f"#!{sys.executable}\nfrom chatpager.program import program\nprint(program())\n"


@pytest.fixture
def bin(tmp_path):
    """Where an environment has the script ``chatpager``, which here prints how to call it."""
    folder = tmp_path / "a place" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "chatpager").write_text(SCRIPT)
    (folder / "chatpager").chmod(0o755)
    return folder


def call(command: str, cwd: Path, path: str = "/usr/bin:/bin") -> str:
    env = {"PATH": path, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, shell=True, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("folder", "called", "named"),
    [
        ("../..", ".venv/bin/chatpager", ".venv/bin/chatpager"),
        (".", "./chatpager", "./chatpager"),
        ("/", "'{bin}/chatpager'", "'{bin}/chatpager'"),
        ("lib", "'{bin}/chatpager'", "'{bin}/chatpager'"),
        ("..", "'{bin}/chatpager'", "bin/chatpager"),
    ],
    ids=["below", "in the folder", "the root", "elsewhere", "by its whole path"],
)
def test_a_script_that_path_does_not_find_is_called_by_its_path(bin, folder, called, named):
    cwd = (bin / folder).resolve()
    cwd.mkdir(exist_ok=True)
    said = call(called.format(bin=bin), cwd).strip()
    assert said == named.format(bin=bin)
    assert call(said, cwd).strip() == said


def test_a_script_that_path_finds_is_called_by_its_name(bin):
    for called in ("chatpager", ".venv/bin/chatpager"):
        assert call(called, bin.parent.parent, f"{bin}:/usr/bin:/bin") == "chatpager\n"


def test_another_script_that_path_finds_is_not_meant(bin, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "chatpager").symlink_to("/bin/true")
    assert call(".venv/bin/chatpager", bin.parent.parent, f"{other}:/usr/bin:/bin") == ".venv/bin/chatpager\n"


@pytest.mark.parametrize("started", ["/somewhere/chatpager/__main__.py", "-c", "", "/usr/bin/pytest"])
def test_what_python_was_started_with_is_called_by_python(monkeypatch, started):
    monkeypatch.setattr(sys, "argv", [started])
    assert program() == f"{python()} -m chatpager"
    assert os.path.samefile(shlex.split(python())[0], sys.executable)
