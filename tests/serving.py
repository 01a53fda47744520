"""A whole server in this process: real sockets on a free port, real engine, real SQLite, a tiny random model.

The model is seeded, so what it answers is always the same, but nobody has written it down: where a test needs certain
words, ``reply`` gives them and the engine runs on a scripted model instead. ``gate`` holds the engine between two
steps, so that a test can look at a turn in any phase for as long as it likes.
"""

import asyncio
import json
import shutil
import threading
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from chatpager.config import EngineConfig, ServerConfig
from chatpager.engine.engine import Engine
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.scheduler import Limits
from chatpager.engine.tokenizer import Tokenizer
from chatpager.server.app import drain, make_app
from chatpager.server.metrics import Metrics
from chatpager.server.requests import Served
from chatpager.server.service import SERVICE, Service
from chatpager.sessions.hub import SessionHub
from chatpager.store import Store
from tests.chat_models import EOS
from tests.engine.fakes import ScriptedRunner

DEADLINE = 20.0
BLOCK = 8
GREEDY = {"temperature": 0, "max_output_tokens": 8, "ignore_eos": True}
"""Sampling fields with which the random model answers with exactly eight tokens."""


class Gate:
    """Between the engine and its model: every step passes it."""

    def __init__(self):
        self._changed = threading.Condition()
        self._left = None
        self.passed = 0
        self.waited_for = False
        """A step waits here."""

    def hold(self, after=0):
        """Let ``after`` more steps pass, and no further."""
        with self._changed:
            self._left = after
            self.waited_for = self.waited_for and after == 0
            self._changed.notify_all()

    def open(self):
        self.hold(None)

    def go_through(self):
        with self._changed:
            self.waited_for = self._left == 0
            assert self._changed.wait_for(lambda: self._left != 0, DEADLINE), "the gate was never opened"
            self.waited_for = False
            self._left = None if self._left is None else self._left - 1
            self.passed += 1


class GatedModel(ModelRunner):
    gate = None

    def run(self, plan):
        self.gate.go_through()
        return super().run(plan)


class GatedScript(ScriptedRunner):
    gate = None

    def run(self, plan):
        self.gate.go_through()
        return super().run(plan)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error's body, whose shape is checked here once for every test."""
        assert self.headers["content-type"].startswith("application/json"), self.body
        answer = self.json
        assert list(answer) == ["error"], answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}, answer
        return answer["error"]

    @property
    def refusal(self):
        return self.status, self.error["code"], self.error["param"]


class Serving:
    """A running server and a client's view of it."""

    def __init__(self, runner, gate, http):
        self.runner, self.gate, self.http = runner, gate, http
        self.app = runner.app
        self.port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._closing = None

    @property
    def service(self) -> Service:
        return self.app[SERVICE]

    def close(self):
        """Shut down as for a signal; to be awaited."""
        self._closing = self._closing or asyncio.ensure_future(self._close())
        return asyncio.wait_for(asyncio.shield(self._closing), DEADLINE)

    async def _close(self):
        await drain(self.app)
        await self.runner.cleanup()

    @property
    def hub(self):
        return self.service.hub

    async def call(self, method, path, body=None, **more):
        if body is not None:
            more["data"] = body if isinstance(body, bytes | str) else json.dumps(body)
        async with self.http.request(method, self.url + path, **more) as response:
            raw = await response.read()
            assert response.headers["x-request-id"].startswith("req_")
            return Answer(response.status, response.headers, raw)

    async def get(self, path, **more):
        return await self.call("GET", path, **more)

    async def post(self, path, body=None, **more):
        return await self.call("POST", path, body, **more)

    async def delete(self, path, **more):
        return await self.call("DELETE", path, **more)

    async def respond(self, input, **more):
        """A response of eight tokens."""
        answer = await self.post("/v1/responses", {"input": input, **GREEDY, **more})
        assert answer.status == 200, answer.body
        return answer.json

    async def conversation(self, **body):
        answer = await self.post("/v1/conversations", body)
        assert answer.status == 200, answer.body
        return answer.json["id"]

    async def items(self, conversation, query="order=asc"):
        answer = await self.get(f"/v1/conversations/{conversation}/items?{query}")
        assert answer.status == 200, answer.body
        return answer.json["data"]

    @asynccontextmanager
    async def events(self, path, body):
        """The events of a streamed answer, as (event or None, data); comments are passed over."""
        async with self.http.post(self.url + path, data=json.dumps({"stream": True, **body})) as response:
            assert response.status == 200, await response.text()
            yield sse_events(response.content)

    @asynccontextmanager
    async def socket(self, *, extended=False, **more):
        address = self.url.replace("http", "ws", 1) + "/v1/responses"
        protocols = ["chatpager.v1"] if extended else None
        async with asyncio.timeout(DEADLINE), connect(address, subprotocols=protocols, compression=None, **more) as ws:
            yield Socket(ws)

    async def live_turn(self):
        """The one turn that runs, once it does."""
        await eventually(lambda: self.hub.turns)
        [turn] = self.hub.turns.values()
        return turn

    async def held(self):
        """The engine stands before the gate, and what its last step brought is delivered."""
        await eventually(lambda: self.gate.waited_for)
        await asyncio.sleep(0)  # the last step's outputs were handed to the loop before
        await eventually(lambda: not self.hub._delivery._inbox)

    async def turn_ended(self, turn):
        async with asyncio.timeout(DEADLINE):
            return await turn.stream.end()


class Socket:
    """A client's WebSocket: JSON frames."""

    def __init__(self, ws):
        self.ws = ws

    async def send(self, **frame):
        await self.ws.send(json.dumps(frame))

    async def create(self, input, **more):
        await self.send(type="response.create", input=input, **{**GREEDY, **more})

    async def receive(self):
        return json.loads(await self.ws.recv())

    async def until(self, *types):
        """The frames up to the first of one of these types, that one included."""
        frames = []
        while not frames or frames[-1]["type"] not in types:
            frames.append(await self.receive())
        return frames

    async def rest(self):
        """The frames up to a response's end or an error."""
        return await self.until("response.completed", "response.incomplete", "response.failed", "error")


async def sse_events(stream):
    kind, comments = None, 0
    async for line in stream:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            kind = text.removeprefix("event: ")
        elif text.startswith("data: "):
            data = text.removeprefix("data: ")
            yield kind, data if data == "[DONE]" else json.loads(data)
            kind = None
        else:
            comments += text.startswith(":")
            assert text in ("", ": "), text


async def eventually(condition, seconds=DEADLINE):
    """Wait until ``condition()`` holds; returns its value."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "it never came to hold"
        await asyncio.sleep(0.002)
    return value


@asynccontextmanager
async def open_serving(model, database, reply=None, *, step=256, blocks=200, length=512, hub=None, **settings):
    """``settings`` are ServerConfig's, ``hub`` the hub's arguments; ``step`` is the most tokens in one step."""
    gate = Gate()

    def build():
        config = EngineConfig(
            model=str(model), device="cpu", block_size=BLOCK, num_kv_blocks=blocks, max_model_len=length,
            max_num_batched_tokens=step, num_threads=1,
        )  # fmt: skip
        runner = GatedModel(config) if reply is None else _scripted(tokenizer, reply, blocks, length)
        runner.gate = gate
        return Engine(config, runner, limits=Limits(step, min(step, 16)))

    tokenizer = Tokenizer(model)
    config = ServerConfig(**{"port": 0, "drain_seconds": 5.0, **settings})

    async def open_service():
        metrics = Metrics()
        store = await Store.open(database, migrate=False)
        session_hub = SessionHub(store, tokenizer, build, on_end=metrics.turn_ended, **(hub or {}))
        try:
            await session_hub.open()
        except BaseException:
            await store.close()
            raise
        return Service(config, session_hub, Served("tiny", {}), metrics, started_at=1_700_000_000_000)

    app = make_app(config, open_service)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE)) as http:
        serving = Serving(runner, gate, http)
        try:
            yield serving
        finally:
            gate.open()
            await serving.close()


def _scripted(tokenizer, reply, blocks, length):
    def answer(prompt_ids):
        return tokenizer.encode_plain(reply(tokenizer.decode(prompt_ids)))

    vocab = tokenizer.backend.get_vocab_size()
    return GatedScript(answer, vocab_size=vocab, eos=EOS, num_blocks=blocks, block_size=BLOCK, max_model_len=length)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A SQLite file with the schema and no rows."""
    path = tmp_path_factory.mktemp("store") / "empty.db"

    async def make():
        await (await Store.open(f"sqlite+aiosqlite:///{path}", migrate=True)).close()

    asyncio.run(make())
    return path


@pytest.fixture
def serve(chat_model, empty_database, tmp_path):
    """``async with serve(...) as server``: see ``open_serving``. Servers of one test share their database."""
    path = tmp_path / "chat.db"
    shutil.copy(empty_database, path)

    def make(reply=None, **more):
        return open_serving(chat_model, f"sqlite+aiosqlite:///{path}", reply, **more)

    return make


@pytest.fixture
async def server(serve):
    """A server with the random model and the defaults."""
    async with serve() as running:
        yield running
