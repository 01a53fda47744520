"""Clients of others', fetched once for the tests that run them: by ``python -m tests.e2e.fetching`` before them all, as
``make test`` does, so that no test's time limit is spent on a slow index, or by the first test that wants one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

KEPT = ROOT / ".pytest_cache" / "clients"
"""What is fetched once, beside pytest's own cache."""
SECONDS = 500
"""Within a test's time limit; ``main`` may take longer."""
FRAMEWORKS = Path(__file__).with_name("frameworks.txt")


def fetched(
    name: str, command: list[str], marker: str, env: dict[str, str] | None = None, *, seconds: float = SECONDS
) -> Path:
    """The folder that ``command`` fills, its last argument being the folder; the test is skipped where it cannot."""
    folder = KEPT / name
    if not (folder / marker).exists():
        half = KEPT / f"{name}.{os.getpid()}"
        half.mkdir(parents=True)
        try:
            done = subprocess.run(
                [*command, str(half)], capture_output=True, text=True, env=env, timeout=seconds, cwd=half
            )
            if done.returncode != 0 or not (half / marker).exists():
                said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
                pytest.skip(f"NOT TESTED with {name}: it cannot be fetched here ({said})")
            shutil.rmtree(folder, ignore_errors=True)
            half.rename(folder)
        except subprocess.TimeoutExpired:
            pytest.skip(f"NOT TESTED with {name}: it was not fetched within {seconds:.0f} s")
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return folder


def pip_into(*packages: str) -> list[str]:
    """A command for ``fetched``."""
    return [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages, "--target"]


def deb_into(package: str) -> list[str]:
    """A command for ``fetched``: a Debian package's files, of which nothing is installed and no service started."""
    return ["sh", "-c", 'cd "$1" && apt-get download -q "$0" && dpkg -x ./*.deb . && rm ./*.deb', package]


PACKAGES = {
    "frameworks": (["--no-deps", "--no-compile", "-r", str(FRAMEWORKS)], "langgraph"),
    "anthropic-2": (["anthropic==2.14.0"], "anthropic"),
    "openai-2": (["openai==2.54.0"], "openai"),
    "grafana-11": (["--no-deps", "grafana-foundation-sdk==1769699379!11.6.0"], "grafana_foundation_sdk"),
}
"""What pip is told, and what is there then."""


def package(name: str, *, seconds: float = SECONDS) -> Path:
    """The folder of one of ``PACKAGES``; see ``fetched``."""
    told, marker = PACKAGES[name]
    return fetched(name, pip_into(*told), marker, seconds=seconds)


def promtool() -> str:
    """Prometheus's own tool: this machine's, or Debian's; see ``fetched``."""
    program = "usr/bin/promtool"
    return shutil.which("promtool") or str(fetched("promtool", deb_into("prometheus"), program) / program)


def main() -> None:
    """Fetches all of ``PACKAGES``, and says what could not be had."""
    for name in PACKAGES:
        try:
            package(name, seconds=1800)
        except pytest.skip.Exception as skipped:
            sys.stderr.write(f"{skipped}\n")


if __name__ == "__main__":
    main()
