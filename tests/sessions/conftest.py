"""A hub with the real store and the real tokenizer, on an engine whose model answers as told."""

import itertools
from contextlib import asynccontextmanager
from math import inf

import pytest

from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.plan import Limits
from chatpager.engine.sequence import SamplingParams
from chatpager.engine.tokenizer import Tokenizer
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.turn_request import TurnRequest
from chatpager.store import NewMessage, Store, text_content
from tests.chat_models import EOS
from tests.engine.fakes import ScriptedRunner

TENANT = "t"


@pytest.fixture(scope="session")
def tokenizer(chat_model):
    return Tokenizer(chat_model)


@pytest.fixture
def database(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path / 'chat.db'}"


class Rig:
    """A hub and what a test needs to drive it."""

    ids = itertools.count(1)

    def __init__(self, hub, runner):
        self.hub = hub
        self.runner = runner
        self.ended = []

    def hold(self, after=0):
        """Let the engine take ``after`` steps and no more until the returned gate is opened."""
        self.runner.gate.hold(after)
        return self.runner.gate

    def request(self, text=None, *, session=None, previous=None, messages=None, kind="response", **more):
        params = more.pop("params", None) or SamplingParams(temperature=0.0, max_tokens=more.pop("max_tokens", 60))
        return TurnRequest(
            id=f"resp_{next(self.ids)}",
            tenant=more.pop("tenant", TENANT),
            kind=kind,
            model="m",
            messages=messages if messages is not None else [user(text)],
            params=params,
            session_id=session,
            previous_turn_id=previous,
            **more,
        )

    async def ask(self, text=None, **more):
        """Submit and wait for the end: (turn, its last event)."""
        turn = await self.hub.submit(self.request(text, **more))
        return turn, await turn.stream.end()

    async def session(self, name="conv_1"):
        await self.hub.store.create_session(TENANT, id=name, now=1)
        return name

    async def texts(self, session):
        stored = await self.hub.store.session(TENANT, session)
        chain = await self.hub.store.load_chain(TENANT, stored.tip_hash)
        return [(m.role, m.content[0]["text"], m.status) for m in chain]


def user(text):
    return NewMessage(role="user", content=text_content(text))


def assistant(text):
    return NewMessage(role="assistant", content=text_content(text))


@pytest.fixture
def rig(tokenizer, database):
    """``async with rig(reply=..., **sizes) as r``: ``reply`` takes the prompt's text and gives the answer's."""

    @asynccontextmanager
    async def make(
        reply=lambda prompt: "ok",
        *,
        ids=None,
        step=64,
        blocks=400,
        block_size=4,
        length=1000,
        caching=True,
        share=False,
        **hub_args,
    ):
        def answer(prompt_ids):
            return ids(prompt_ids) if ids else tokenizer.encode_plain(reply(tokenizer.decode(prompt_ids)))

        runner = ScriptedRunner(
            answer,
            vocab_size=tokenizer.backend.get_vocab_size(),
            eos=EOS,
            num_blocks=blocks,
            block_size=block_size,
            max_model_len=length,
        )
        config = EngineConfig(
            block_size=block_size, max_num_batched_tokens=step, max_num_seqs=16, enable_prefix_caching=caching
        )
        store = await Store.open(database, migrate=True, share=share)
        built = []

        def build():
            built.append(Engine(config, runner, limits=Limits(step, min(step, 16))))
            return built[-1]

        r = Rig(None, runner)
        hub_args.setdefault("merge_after", inf)
        hub_args.setdefault("on_end", lambda turn, ended: r.ended.append((turn.id, ended)))
        r.hub = SessionHub(store, tokenizer, build, **hub_args)
        await r.hub.open()
        r.engine, r.engines = built[0], built
        try:
            yield r
        finally:
            runner.gate.open()
            await r.hub.close()
            await store.close()

    return make
