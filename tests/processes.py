"""``chatpager`` as a real process: started from nothing, or forked from one that has imported everything.

Its streams are pipes, or a terminal; what it says is waited for, never slept for.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.gate import DEADLINE

ROOT = Path(__file__).parent.parent
WATCHED = f"{ROOT}/tests/watched:{ROOT}"
"""Where Python finds chatpager, and what lets it ask no other machine."""
SECONDS = DEADLINE
"""After which a process that does not say or do what is waited for has failed."""
ADDRESS = re.compile(r"chat +(http://\S+)")


def clean_env(home: Path, **more: str) -> dict[str, str]:
    """The environment of a person without settings, whose folders are under ``home``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHATPAGER_", "XDG_", "DISPLAY", "WAYLAND_"))}
    folders = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "XDG_CONFIG_HOME": str(home / "config")}
    plain = {"CI": "1", "PYTHONPATH": WATCHED, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return {**kept, **plain, **folders, **more}


TRACING = "COVERAGE_PROCESS_CONFIG"
"""Where a process looks whether it is to be measured."""
TRACED = f"TESTS_{TRACING}"


def pytest_runtest_setup() -> None:
    """Only what is asked to is measured: under the tracer a server takes twice as long, and nearly all that it does is
    covered by tests in this process. Coverage asks for all again when a test without it has ended."""
    if TRACING in os.environ:
        os.environ[TRACED] = os.environ.pop(TRACING)


def traced() -> dict[str, str]:
    """What a process's environment needs to be measured, too, where its tests are."""
    return {TRACING: os.environ.get(TRACED, "")}


class Output:
    """What a process writes to one stream, as far as it has."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes = b""
        self._closed = False
        self._grown = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._fd, 1 << 16)
            except OSError:  # a terminal whose last writer has gone
                piece = b""
            with self._grown:
                self._bytes += piece
                self._closed = not piece
                self._grown.notify_all()
                if self._closed:
                    os.close(self._fd)
                    return

    @property
    def text(self) -> str:
        return self._bytes.decode()

    def wait_for(self, pattern: str | re.Pattern[str], seconds: float = SECONDS, after: int = 0) -> re.Match[str]:
        """The first match behind the ``after``-th character."""
        compiled = re.compile(pattern)
        with self._grown:
            self._grown.wait_for(lambda: self._closed or compiled.search(self.text, after), seconds)
            found = compiled.search(self.text, after)
        assert found, f"waited for {compiled.pattern!r}; was said:\n{self.text}"
        return found

    def whole(self, seconds: float = SECONDS) -> str:
        """Everything, once the stream has ended."""
        with self._grown:
            assert self._grown.wait_for(lambda: self._closed, seconds), f"goes on; was said:\n{self.text}"
        return self.text


class Process:
    """One command. ``wait`` gives its exit code, negative for the signal that killed it."""

    def __init__(self, pid: int, exit_code: Callable[[float], int | None], stdin: int, out: int, err: int) -> None:
        self.pid = pid
        self._exit_code = exit_code
        self._stdin = stdin
        self.out = Output(out)
        self.err = Output(err) if err != out else self.out

    def say(self, text: str) -> None:
        os.write(self._stdin, text.encode())

    def wait_until_it_sleeps(self) -> None:
        """Until it waits for something. Of a signal before that, readline hears only at the next key: it looks for one
        and then waits for input, which are two steps in CPython."""
        until = time.monotonic() + SECONDS
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < until, f"goes on; said:\n{self.out.text}"
            os.sched_yield()

    def hang_up(self) -> None:
        """Nothing more comes on its input."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def running(self) -> bool:
        return self._exit_code(0) is None

    def wait(self, seconds: float = SECONDS) -> int:
        code = self._exit_code(seconds)
        assert code is not None, f"does not end; said:\n{self.out.text}\n{self.err.text}"
        return code

    def end(self) -> None:
        """Leave nothing behind."""
        if self.running:
            self.send(signal.SIGKILL)
            self.wait()
        self.hang_up()


Launch = Callable[..., Process]


def _launch(start: Callable[[dict, list[int]], tuple[int, Callable[[float], int | None]]]) -> Launch:
    """``tty`` gives the process a terminal of its own instead of pipes."""

    def launch(*argv: str, env: dict[str, str], cwd: Path | str = "/", tty: bool = False) -> Process:
        if tty:
            ours, theirs = os.openpty()
            given, kept = [theirs, theirs, theirs], [ours, os.dup(ours)]
            kept.append(kept[1])
        else:
            pipes = [os.pipe(), os.pipe(), os.pipe()]
            given, kept = [pipes[0][0], pipes[1][1], pipes[2][1]], [pipes[0][1], pipes[1][0], pipes[2][0]]
        pid, exit_code = start({"argv": argv, "env": env, "cwd": str(cwd)}, given)
        for fd in set(given):
            os.close(fd)
        return Process(pid, exit_code, *kept)

    return launch


def _spawn(request: dict, streams: list[int]) -> tuple[int, Callable[[float], int | None]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "chatpager", *request["argv"]],
        stdin=streams[0], stdout=streams[1], stderr=streams[2],
        env=request["env"], cwd=request["cwd"], start_new_session=True,
    )  # fmt: skip

    def exit_code(seconds: float) -> int | None:
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return child.pid, exit_code


spawn = _launch(_spawn)
"""Start ``python -m chatpager`` with these arguments."""


class ForkServer:
    """The near end of ``tests.forking``."""

    def __init__(self, home: Path) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._exits: dict[int, int] = {}
        self._started: list[int] = []
        self._told = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], cwd=ROOT, env=clean_env(home, **traced()), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        assert self._channel.recv(1 << 16), "the fork server did not start"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while message := self._channel.recv(1 << 16):
            answer = json.loads(message)
            with self._told:
                if "started" in answer:
                    self._exits.pop(answer["started"], None)  # of a process before it that had the same number
                    self._started.append(answer["started"])
                else:
                    self._exits[answer["ended"]] = answer["status"]
                self._told.notify_all()

    def start(self, request: dict, streams: list[int]) -> tuple[int, Callable[[float], int | None]]:
        socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
        with self._told:
            assert self._told.wait_for(lambda: self._started, SECONDS), "nothing was forked"
            pid = self._started.pop()

        def exit_code(seconds: float) -> int | None:
            with self._told:
                self._told.wait_for(lambda: pid in self._exits, seconds)
                return self._exits.get(pid)

        return pid, exit_code

    def close(self) -> None:
        self._channel.shutdown(socket.SHUT_WR)
        self._process.wait(SECONDS)
        self._channel.close()


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory) -> Iterator[Launch]:
    """Starts ``chatpager`` in milliseconds."""
    server = ForkServer(tmp_path_factory.mktemp("forking"))
    yield _launch(server.start)
    server.close()


class Server:
    """A server that answers at ``url``."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = process.out.wait_for(ADDRESS)[1]
        assert self.get("/health/ready")["status"] == "ok"

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:
            return json.load(answer)

    def post(self, path: str, body: object = None) -> dict:
        data = json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)

    def stop(self) -> int:
        self.process.send(signal.SIGTERM)
        return self.process.wait()


@contextmanager
def serving(
    launch: Launch,
    home: Path,
    *flags: str,
    command: tuple[str, ...] = ("demo",),
    cwd: Path | str = "/",
    **env: str,
) -> Iterator[Server]:
    """The server with its built-in model and its data under ``home``, on a free port, started in ``cwd``. What it
    answers depends on no luck: requests that bring no seed get theirs from a seed that is always the same."""
    process = launch(*command, "--port", "0", *flags, env=clean_env(home, **{"CHATPAGER_SEED": "0", **env}), cwd=cwd)
    try:
        yield Server(process)
    finally:
        process.end()


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """One server with the built-in model, started from nothing, for all tests that do not kill theirs."""
    with serving(spawn, tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.stop() == 0, running.process.err.text


@pytest.fixture(scope="session")
def server_url(server) -> str:
    return server.url


def free_port() -> int:
    """A port to listen at later: below those that the system gives to whoever names none, and no other worker's."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    while True:
        port = secrets.randbelow(1500) * 8 + 20_000 + worker
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
