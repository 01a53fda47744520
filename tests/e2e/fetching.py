"""Clients of others', fetched once for the tests that run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

KEPT = ROOT / ".pytest_cache" / "clients"
"""What is fetched once, beside pytest's own cache."""
SECONDS = 600


def fetched(name: str, command: list[str], marker: str, env: dict[str, str] | None = None) -> Path:
    """The folder that ``command`` fills, its last argument being the folder; the test is skipped where it cannot."""
    folder = KEPT / name
    if not (folder / marker).exists():
        half = KEPT / f"{name}.{os.getpid()}"
        half.mkdir(parents=True)
        try:
            done = subprocess.run(
                [*command, str(half)], capture_output=True, text=True, env=env, timeout=SECONDS, cwd=half
            )
            if done.returncode != 0 or not (half / marker).exists():
                said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
                pytest.skip(f"NOT TESTED with {name}: it cannot be fetched here ({said})")
            shutil.rmtree(folder, ignore_errors=True)
            half.rename(folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return folder


def pip_into(*packages: str) -> list[str]:
    """A command for ``fetched``."""
    return [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages, "--target"]
