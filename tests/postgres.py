"""A real, throw-away PostgreSQL server for tests, started from the binaries of this machine.

``postgres_server`` (one for the session, in each xdist worker) and ``postgres_url`` (an empty database for each test);
``pooler``, PgBouncer before that server, which shares its connections by transaction.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from tests.gate import DEADLINE

_WATCHED = 'trap "" INT; "$@" & read -r _; kill -QUIT $!; wait $!'
"""Runs a server until standard input ends, so that no server outlives the tests, however they end."""


def binaries() -> Path | None:
    """The folder of the newest server's binaries."""
    on_path = shutil.which("postgres")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    return next((folder for folder in reversed(found) if (folder / "postgres").exists()), None)


@dataclass
class Server:
    """A running server, reached through a socket in ``folder``."""

    bin: Path
    folder: Path
    user: str | None
    databases: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@/{database}?host={self.folder}"

    def run(self, tool: str, *arguments: str) -> None:
        done = subprocess.run([self.bin / tool, "-h", self.folder, "-U", "postgres", *arguments], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    def create(self, template: str = "template1") -> str:
        """A new database, a copy of ``template``; returns its name."""
        name = f"test_{next(self.databases)}"
        self.run("createdb", "-T", template, name)
        return name

    def drop(self, name: str) -> None:
        self.run("dropdb", "--force", name)


def make(folder: Path, bin: Path) -> Server:
    """A cluster in ``folder``; PostgreSQL refuses to run as root, so root has it run as somebody else."""
    user = None
    if os.geteuid() == 0:
        user = _other_user()
        shutil.chown(folder, user)
    made = subprocess.run(
        [bin / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
        user=user, cwd=folder, capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    return Server(bin, folder, user)


@contextmanager
def serving(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server; the process is its watcher."""
    folder = server.folder
    options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "shared_buffers": "64MB"}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            ["sh", "-c", _WATCHED, "sh", server.bin / "postgres", "-D", folder / "data", *settings],
            user=server.user, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + DEADLINE
        while subprocess.run([server.bin / "pg_isready", "-q", "-h", folder]).returncode != 0:
            assert time.monotonic() < deadline, (folder / "log").read_text()
        yield process
    finally:
        process.stdin.close()
        process.wait(DEADLINE)


@dataclass
class Pooler:
    """A running PgBouncer, reached through a socket in ``folder``; a database has ``CONNECTIONS`` of the server's."""

    folder: Path
    CONNECTIONS = 2

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@/{database}?host={self.folder}&port=6432&prepared_statement_cache_size=0"


@contextmanager
def pooling(server: Server, program: str, folder: Path) -> Iterator[Pooler]:
    """Run PgBouncer in ``folder``. It keeps no connection longer than a moment, or a database could not be dropped."""
    if server.user:
        shutil.chown(folder, server.user)
    settings = {
        "pool_mode": "transaction", "default_pool_size": Pooler.CONNECTIONS, "max_client_conn": 200, "auth_type": "any",
        "unix_socket_dir": folder, "listen_port": 6432, "server_idle_timeout": 1, "logfile": folder / "log",
    }  # fmt: skip
    told = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / "ini").write_text(f"[databases]\n* = host={server.folder} user=postgres\n[pgbouncer]\n{told}")
    process = subprocess.Popen(
        ["sh", "-c", _WATCHED.replace("QUIT", "TERM"), "sh", program, "-q", folder / "ini"],
        user=server.user, cwd=folder, stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + DEADLINE
        while not (folder / ".s.PGSQL.6432").exists():
            assert time.monotonic() < deadline and process.poll() is None, (folder / "log").read_text()
            time.sleep(0.01)
        yield Pooler(folder)
    finally:
        process.stdin.close()
        process.wait(DEADLINE)


def _other_user() -> str:
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


@contextmanager
def folder() -> Iterator[Path]:
    """One whose name is short enough for a socket, and that another user can reach, as pytest's are not."""
    place = Path(tempfile.mkdtemp(prefix="chatpager-pg-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def made() -> Iterator[Server]:
    """A cluster that does not run yet, for one who kills it."""
    bin = binaries()
    if bin is None:
        pytest.skip("NOT TESTED on PostgreSQL: no server on this machine (Debian: apt-get install postgresql)")
    with folder() as place:
        yield make(place, bin)


@pytest.fixture(scope="session")
def postgres_server():
    with made() as server, serving(server):
        yield server


@pytest.fixture
def postgres_url(postgres_server):
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def pooler(postgres_server):
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("NOT TESTED behind PgBouncer: it is not on this machine (Debian: apt-get install pgbouncer)")
    with folder() as place, pooling(postgres_server, program, place) as made:
        yield made
