"""A server of our own, as a process of its own, for the length of a measurement."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 180.0


def command(model: Path, data: Path, port: str, *flags: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a server with nothing of the user's own: not the settings file, not the
    database, not the key. Its data go to ``data``, which is there."""
    settings = data / "chatpager.toml"
    settings.touch()
    argv = [sys.executable, "-m", "chatpager", "serve", str(model), "--port", port, "--config", str(settings), *flags]
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHATPAGER_")}
    return argv, env | {"CHATPAGER_DATA_DIR": str(data), "CHATPAGER_DATABASE_URL": f"sqlite:///{data / 'bench.db'}"}


@contextmanager
def running(model: Path, data: Path, *flags: str) -> Iterator[str]:
    """Serve ``model`` on a free port; gives the address. Raises RuntimeError with the server's last words."""
    with served(model, data, *flags) as (address, _):
        yield address


@contextmanager
def served(model: Path, data: Path, *flags: str, failpoints: str = "") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The same, with its process, in which ``failpoints`` are armed."""
    port = free_port()
    log = data / "server.log"
    argv, env = command(model, data, str(port), *flags)
    if failpoints:
        env |= {"CHATPAGER_TEST_MODE": "1", "CHATPAGER_FAILPOINTS": failpoints}
    with log.open("w") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env=env)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address, process, log)
        yield address, process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
