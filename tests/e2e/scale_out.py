"""Two front ends with two replicas each on one PostgreSQL, which faults strike one after the other while clients talk.

Each front end is a database user of its own, and triggers of the database's own write down which of them wrote what:
who commits a token is not what any server says of itself.
"""

import asyncio
import collections
import os
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

from aiohttp import ClientError

from chatpager.bench.plain_socket import SocketLost
from chatpager.bench.talkers import Refused, Talker, leave
from chatpager.demo import model_path
from chatpager.engine.whole_file import write_once
from tests import postgres
from tests.processes import ADDRESS, Launch, clean_env, free_port

WATCHDOG_SECONDS = 5.0
START_SECONDS = 180.0
PATIENCE = 60.0
"""Within which a response is told to its end, whatever strikes meanwhile."""
FLAGS = ("--share-database", "--replicas", "2", "--engine", "fake", "--test-mode", "--num-kv-blocks", "2048")
FLAGS += ("--fake-tokens-per-second", "40", "--watchdog-seconds", str(WATCHDOG_SECONDS))
LENGTHS = 16, 160
"""Tokens of an answer: up to four seconds."""
TURNS = 16
"""Of a conversation: more do not fit the context."""
WITNESS = """
CREATE TABLE written (at bigserial, turn_id text, first_index bigint, token_ids bytea, writer text);
CREATE TABLE ended (at bigserial, turn_id text, status text, writer text);
CREATE FUNCTION witness_written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO written (turn_id, first_index, token_ids, writer)
  VALUES (NEW.turn_id, NEW.first_index, NEW.token_ids, session_user); RETURN NULL; END $$;
CREATE FUNCTION witness_ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO ended (turn_id, status, writer) VALUES (NEW.id, NEW.status, session_user); RETURN NULL; END $$;
CREATE TRIGGER witness AFTER INSERT ON turn_journal FOR EACH ROW EXECUTE FUNCTION witness_written();
CREATE TRIGGER witness AFTER UPDATE ON turns FOR EACH ROW
  WHEN (OLD.status = 'in_progress' AND NEW.status <> 'in_progress') EXECUTE FUNCTION witness_ended();
"""


def children_of(pid):
    """Process ids."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


async def gone(pids):
    """Until all have ended, whoever is to bury them."""
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            process, ended, loop = os.pidfd_open(pid), asyncio.Event(), asyncio.get_running_loop()
            loop.add_reader(process, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(process)
                os.close(process)


def signalled(pids, number):
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Database:
    """PostgreSQL, started again in the same folder after it was killed."""

    def __init__(self, server: postgres.Server):
        self.server = server
        self._running = ExitStack()
        self.start()
        self.name = self.server.create()
        for user in ("front0", "front1"):
            self.server.run("psql", "-qc", f"CREATE ROLE {user} LOGIN SUPERUSER", self.name)

    def start(self):
        self._running.enter_context(postgres.serving(self.server))

    def url(self, user):
        return self.server.url(self.name).replace("postgres@", f"{user}@")

    def rows(self, query):
        """Each as text."""
        command = [self.server.bin / "psql", "-h", self.server.folder, "-U", "postgres", "-AtF", "|", "-c", query]
        done = subprocess.run([*command, self.name], capture_output=True, text=True, check=True)
        return [line.split("|") for line in done.stdout.splitlines()]

    def processes(self):
        """The postmaster's first."""
        main = int((self.server.folder / "data" / "postmaster.pid").read_text().split()[0])
        return [main, *children_of(main)]

    async def kill(self):
        found = self.processes()
        os.kill(found[0], signal.SIGKILL)
        await gone(found)  # the next one does not start before
        self._running.close()

    def close(self):
        self._running.close()


class FrontEnd:
    """``chatpager serve`` on a port and in a data folder that stay its own. ``flags``: where its engines are."""

    def __init__(self, number: int, launch: Launch, database: Database, folder: Path, flags=(), environment=None):
        self.number = number
        self._launch, self._home = launch, folder / f"front{number}"
        self._home.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = environment or {}
        self._flags = (*FLAGS, *flags, "--database-url", database.url(f"front{number}"))
        self.process = None
        self._said = []

    def start(self):
        argv = ("serve", str(model_path()), "--port", str(self.port), *self._flags)
        self.process = self._launch(*argv, env=clean_env(self._home, **self._environment))

    async def ready(self):
        await asyncio.to_thread(self.process.out.wait_for, ADDRESS, START_SECONDS)

    @property
    def running(self):
        return self.process is not None and self.process.running

    async def replicas(self, http):
        async with http.get(f"{self.url}/v1/admin/replicas", raise_for_status=True) as answer:
            return (await answer.json())["data"]

    def give(self, secret):
        """What its blocks' names are made with, which else is its own."""
        data = self._home / "data" / "chatpager"
        data.mkdir(parents=True)
        write_once(data / "secret", secret)

    def kill(self):
        self.process.send(signal.SIGKILL)
        self.process.wait()
        self._bury()

    def close(self):
        if self.process is not None:
            self.process.end()
            self._bury()

    def _bury(self):
        self._said = self.said()
        self.process.hang_up()
        self.process = None

    def said(self):
        """What each of its processes did."""
        return self._said + ([self.process.out.text + self.process.err.text] if self.process else [])


class Client:
    """One conversation after the other, turn after turn, at whichever front end answers. ``transcript`` has all that it
    hears, and ``asked`` by conversation all that it said."""

    def __init__(self, number, transcript, fronts, rng, http):
        self.faults, self.refusals, self.asked = [], collections.Counter(), {}
        self.served = asyncio.Event()
        """Set with each turn that ends well."""
        self._talker = Talker(number, transcript)
        self._fronts, self._at, self._rng = fronts, number % len(fronts), rng
        self._http, self._conversation, self._turns = http, None, 0
        self._stopping = False

    @property
    def _front(self):
        return self._fronts[self._at]

    async def talk(self):
        """Until it is told to stop, and then until one more turn ended well."""
        while True:
            stopping = self._stopping
            if await self._turn() and stopping:
                break
        await leave([self._talker])

    def stop(self):
        self._stopping = True

    async def _turn(self):
        try:
            async with asyncio.timeout(PATIENCE):
                if not self._talker.connected:
                    await self._talker.connect(self._front.url.replace("http", "ws") + "/v1/responses")
                end = await self._ask()
        except Refused as refused:
            self.refusals[str(refused).partition(":")[0]] += 1
            await asyncio.sleep(0.1)
            return False
        except (SocketLost, ClientError):
            await self._go_elsewhere()
            return False
        except TimeoutError:
            name, heard = self._talker.response_id, self._talker.heard
            self.faults.append(f"{name} was told up to event {heard}, and no end within {PATIENCE:g} s")
            await self._go_elsewhere()
            return False
        if end["error"] is not None:
            self.refusals[end["error"]["code"]] += 1
            return False
        self.served.set()
        if self._rng.random() < 0.1:
            await self._go_elsewhere()
        return True

    async def _ask(self):
        if self._turns % TURNS == 0:
            async with self._http.post(f"{self._front.url}/v1/conversations", json={}) as answer:
                answer.raise_for_status()
                self._conversation = (await answer.json())["id"]
                self.asked[self._conversation] = []
                self._turns = 1
        text = f"Question {self._rng.randrange(10**9)}?"
        self.asked[self._conversation].append(text)
        wanted = {"input": text, "max_output_tokens": self._rng.randint(*LENGTHS), "temperature": 0}
        end = await self._talker.ask(conversation=self._conversation, **wanted)
        self._turns += 1
        return end

    async def _go_elsewhere(self):
        """To the other front end, and ask there for the rest of what was being told."""
        name, heard = self._talker.response_id, self._talker.heard
        await leave([self._talker])
        self._at = (self._at + 1) % len(self._fronts)
        await asyncio.sleep(0.05)
        if name is None:
            return
        rest = self._talker.expect_resumed(name, heard)
        address = f"{self._front.url.replace('http', 'ws')}/v1/responses?response_id={name}&starting_after={heard}"
        try:
            async with asyncio.timeout(PATIENCE):
                await self._talker.connect(address)
                await rest
        except (Refused, SocketLost, TimeoutError):
            pass  # it goes on, and what becomes of the turn is asked of the store
        finally:
            rest.cancel()


class Cluster:
    """``launch`` starts front ends, each of which is told its ``flags``."""

    def __init__(self, launch, server, folder, flags=((), ()), environment=None):
        self.database = Database(server)
        self.fronts = [FrontEnd(n, launch, self.database, folder, more, environment) for n, more in enumerate(flags)]

    async def start(self):
        """One after the other, so that one of them makes the tables."""
        for front in self.fronts:
            front.start()
            await front.ready()
        self.database.server.run("psql", "-qc", WITNESS, self.database.name)

    async def is_whole(self, http):
        """Until no replica is being made again."""
        for front in self.fronts:
            while True:
                with suppress(ClientError):
                    if all(row["state"] != "restarting" for row in await front.replicas(http)):
                        break
                await asyncio.sleep(0.1)

    def close(self):
        for front in self.fronts:
            front.close()
        self.database.close()
