"""A whole server in this process: real sockets on a free port, real engine, real SQLite, a tiny random model.

The model is seeded, and so are the draws of requests that bring no seed: what it answers is always the same, but nobody
has written it down. Where a test needs certain words, ``reply`` gives them, or their ids, and the engine runs on a
scripted model instead. ``gate`` holds the engine between two steps, so that a test can look at a turn in any phase for
as long as it likes.
"""

import asyncio
import shutil
from contextlib import asynccontextmanager
from math import inf

import aiohttp
import pytest
from aiohttp import web

from chatpager.config import EngineConfig, ServerConfig
from chatpager.engine.engine import Engine
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Limits
from chatpager.engine.tokenizer import Tokenizer
from chatpager.server.app import make_app
from chatpager.server.connections import HEAD_SECONDS, IDLE_SECONDS, make_runner
from chatpager.server.metrics import Metrics
from chatpager.server.requests import Served
from chatpager.server.service import Service
from chatpager.sessions.hub import SessionHub
from chatpager.store import Store
from tests.chat_models import EOS
from tests.engine.fakes import ScriptedRunner
from tests.gate import DEADLINE, Gate
from tests.serving_client import GREEDY, Serving, eventually

__all__ = ["DEADLINE", "GREEDY", "Gate", "Serving", "eventually", "open_serving"]
BLOCK = 8
MERGES_NEVER = {"merge_after": inf}
"""However busy the machine is that the tests run on: many of them count events."""


class GatedModel(ModelRunner):
    gate = None

    def run(self, plan):
        self.gate.go_through()
        return super().run(plan)


@asynccontextmanager
async def open_serving(
    model,
    database,
    reply=None,
    *,
    step=256,
    blocks=200,
    length=512,
    block=BLOCK,
    hub=None,
    engine=None,
    idle_seconds=IDLE_SECONDS,
    head_seconds=HEAD_SECONDS,
    files=None,
    share=False,
    **settings,
):
    """``settings`` are ServerConfig's, ``engine`` EngineConfig's, ``hub`` the hub's arguments; ``step`` is the most
    tokens in one step."""
    gate = Gate()

    def build():
        config = EngineConfig(
            model=str(model), device="cpu", num_kv_blocks=blocks, max_model_len=length,
            max_num_batched_tokens=step, num_threads=1, seed=0,
            **{"block_size": block, "swap_space": 0, **(engine or {})},
        )  # fmt: skip
        runner = GatedModel(config) if reply is None else _scripted(tokenizer, reply, blocks, length)
        runner.gate = gate
        built = Engine(config, runner, limits=Limits(step, min(step, 16)))
        if built.tiers is not None:  # or a busy machine decides that what they have is computed faster
            built.tiers.times.is_slower = lambda source: False
            built.tiers._clock = lambda: 0.0
        return built

    tokenizer = Tokenizer(model)
    config = ServerConfig(**{"port": 0, "drain_seconds": 5.0, **settings})

    async def open_service():
        metrics = Metrics()
        store = await Store.open(database, migrate=False, share=share)
        session_hub = SessionHub(store, tokenizer, build, on_end=metrics.turn_ended, **{**MERGES_NEVER, **(hub or {})})
        try:
            await session_hub.open()
        except BaseException:
            await store.close()
            raise
        return Service(
            config, session_hub, Served("tiny", {}, session_hub.max_model_len), metrics, started_at=1_700_000_000_000
        )

    app = make_app(config, open_service)
    runner = make_runner(app, idle_seconds=idle_seconds, head_seconds=head_seconds, files=files)
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
        said = reply(tokenizer.decode(prompt_ids))
        return tokenizer.encode_plain(said) if isinstance(said, str) else said

    vocab = tokenizer.backend.get_vocab_size()
    return ScriptedRunner(answer, vocab_size=vocab, eos=EOS, num_blocks=blocks, block_size=BLOCK, max_model_len=length)


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

    def make(reply=None, *, model=chat_model, **more):
        return open_serving(model, f"sqlite+aiosqlite:///{path}", reply, **more)

    return make


@pytest.fixture
async def server(serve):
    """A server with the random model and the defaults."""
    async with serve() as running:
        yield running
