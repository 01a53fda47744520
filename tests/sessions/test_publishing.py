"""Published instructions: every tenant's, on every tier, over a restart; what stands behind them is nobody else's."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from chatpager.config import EngineConfig
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.engine import Engine
from chatpager.engine.host_tier import HostTier
from chatpager.engine.messages import PublishPrefix, WithdrawPrefix
from chatpager.engine.plan import Limits
from chatpager.engine.published import owner_of
from chatpager.engine.tiers import Tiers
from chatpager.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    EngineStopped,
    InvalidRequest,
    NothingCached,
    PrefixExists,
    PrefixNotFound,
    PrefixTooShort,
    StepFailed,
)
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.publishing import Publisher
from chatpager.store import Store
from tests.chat_models import EOS
from tests.engine.fakes import ScriptedRunner
from tests.looking import look
from tests.serving_client import eventually
from tests.sessions.conftest import Rig

RULES = "Answer as our support team does: in short sentences, and without promises. " * 2
SAY = "What is the way to the station, and when does the next train to the sea leave from there?"


async def publish(r, instructions=RULES, label="support", **more):
    known, _ = await r.hub.publisher.publish(label, instructions, "m", **more)
    return known


async def ask(r, tenant, text=SAY, **more):
    _, ended = await r.ask(text, tenant=tenant, instructions=RULES, **more)
    assert ended.status == "completed"
    got = ended.receipt
    assert got.device_tokens + got.host_tokens + got.disk_tokens + got.computed_tokens == got.prompt_tokens
    return got


async def test_another_tenants_first_turn_finds_the_published_tokens_and_not_one_more(rig):
    for published in (True, False):
        async with rig() as r:
            if published:
                known = await publish(r)
                assert known.cache.device_tokens == known.cache.tokens == 4 * known.cache.blocks
                assert 0 < len(known.prefix.token_ids) - known.cache.tokens < 4
            first, second = await ask(r, "ann"), await ask(r, "bob")
            tokens = known.cache.tokens if published else 0
            assert first.device_tokens == second.device_tokens == tokens
            assert second.cached_tokens == tokens
            assert (second.published, second.published_tokens) == ("support" if published else None, tokens)
            assert (await ask(r, "bob")).cached_tokens > tokens
            if published:
                await r.hub.publisher.withdraw("support")


async def test_what_asks_with_other_instructions_shares_nothing(rig):
    async with rig() as r:
        await publish(r)
        _, ended = await r.ask(SAY, instructions=RULES[:-3] + "!")
        assert (ended.receipt.cached_tokens, ended.receipt.published) == (0, None)


@pytest.mark.parametrize(
    "said", ["a", " a", "\n", "\n\na", "1", "你好", "\N{SNOWMAN}", ".", "'s", "</s>", "\t\tx", "日"]
)
async def test_it_is_what_every_conversation_begins_with(rig, said):
    async with rig() as r:
        known = await publish(r)
        assert (await ask(r, "ann", said)).published_tokens == known.cache.tokens


async def test_it_is_computed_once_however_many_publish_it(rig):
    async with rig(step=16) as r:
        await asyncio.gather(*(publish(r) for _ in range(3)))
        computed = sum(count for rows in r.runner.steps for _, count in rows)
        known = await publish(r)
        # Each but the first computes the last block again, whose end its prompt is.
        assert known.cache.tokens <= computed <= known.cache.tokens + 2 * 4
        assert await r.hub.store.prefixes.every() == [known.prefix]
        assert not r.ended and not await r.hub.store.active_turns("t")


async def test_it_is_pinned_if_asked(rig):
    async with rig() as r:
        known, event = await r.hub.publisher.publish("support", RULES, "m", 3600.0)
        assert event.tokens == known.cache.tokens and event.seconds_left > 3500
        [lease] = known.cache.leases
        assert (lease.strength, lease.tokens) == ("hard", known.cache.tokens) and lease.seconds_left > 3500
        await r.hub.publisher.withdraw("support")
        assert await look(r.hub.engine, lambda engine: engine.pool.leased) == 0


async def test_who_has_it_and_where_it_is(rig):
    async with rig() as r:
        await publish(r)
        await publish(r, RULES * 2, "longer")
        for tenant in ("ann", "bob"):
            await ask(r, tenant)
        await ask(r, "bob", stored=False)
        support, longer = await r.hub.publisher.every()
        assert (support.prefix.label, support.cache.sessions) == ("support", 2)
        assert (longer.prefix.label, longer.cache.sessions) == ("longer", 0)
        assert (await r.hub.publisher.known("longer")).cache == longer.cache


async def test_withdrawn_it_is_shared_no_more(rig):
    async with rig() as r:
        await publish(r)
        await r.hub.publisher.withdraw("support")
        for operation in (r.hub.publisher.known, r.hub.publisher.withdraw):
            with pytest.raises(PrefixNotFound):
                await operation("support")
        assert await r.hub.publisher.every() == []
        assert (await ask(r, "ann")).published is None
        assert (await ask(r, "bob")).cached_tokens == 0


async def test_begun_again_an_engine_that_others_have_knows_what_the_database_says(rig):
    """Another server has withdrawn a prefix meanwhile, published one, and one anew under an old label."""
    async with rig() as r:
        stored = {}
        for label, text in (("support", RULES), ("longer", RULES * 2)):
            known = await publish(r, text, label)
            stored[label] = known.prefix.token_ids[: known.cache.tokens]
        r.hub.engine.send(WithdrawPrefix("support"))
        for label in ("support", "withdrawn"):
            r.hub.engine.send(PublishPrefix(label=label, token_ids=[1, 2, 3, 4]))
        r.hub.engine.send(WithdrawPrefix("longer"))
        await r.hub.publisher.open_again()
        assert await look(r.hub.engine, lambda engine: {p.label: p.token_ids for p in engine.published}) == stored


async def test_an_engine_that_takes_anothers_place_before_the_first_was_told_is_told_with_the_opening(rig):
    async with rig() as r:
        await publish(r)
        r.hub.engine.send(WithdrawPrefix("support"))
        opening = Publisher(
            r.hub.store, r.hub.prompting, r.hub.engine, r.hub.keeper, vocab=r.hub.tokenizer.fingerprint, wall=r.hub.wall
        )
        await opening.open_again()
        assert await look(r.hub.engine, lambda engine: list(engine.published)) == []
        await opening.open(r.hub.publisher.room)
        assert await look(r.hub.engine, lambda engine: [p.label for p in engine.published]) == ["support"]


async def test_who_leaves_while_it_is_withdrawn_leaves_nothing_half_done(rig):
    async with rig() as r:
        await publish(r)
        async with r.hub.store._database._queue:
            leaving = asyncio.create_task(r.hub.publisher.withdraw("support"))
            await asyncio.sleep(0)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        with pytest.raises(PrefixNotFound):
            await r.hub.publisher.withdraw("support")
        assert await look(r.hub.engine, lambda engine: engine.sessions.published(0.0)) == []


async def turn_in(r, session):
    _, ended = await r.ask("And then?", session=session, instructions=RULES)
    return ended.receipt


async def test_a_conversation_that_began_before_computes_itself_once_more_and_nothing_was_evicted(rig):
    async with rig() as r:
        session = await r.session()
        await turn_in(r, session)
        assert (await turn_in(r, session)).miss_reason is None
        known = await publish(r)
        first, second = await turn_in(r, session), await turn_in(r, session)
        assert first.cached_tokens == first.attainable_tokens == known.cache.tokens
        assert (first.published, first.miss_reason) == ("support", "cold")
        assert second.cached_tokens == second.attainable_tokens > first.cached_tokens


async def test_a_conversation_that_goes_on_after_it_was_withdrawn_is_cold_once(rig):
    async with rig() as r:
        await publish(r)
        session = await r.session()
        assert (await turn_in(r, session)).published == "support"
        await r.hub.publisher.withdraw("support")
        first, second = await turn_in(r, session), await turn_in(r, session)
        assert (first.cached_tokens, first.attainable_tokens, first.miss_reason) == (0, 0, "cold")
        assert second.cached_tokens == second.attainable_tokens > 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("instructions", "error", "says"),
        [
            ("", InvalidRequest, "no instructions"),
            (" \n", InvalidRequest, "no instructions"),
            (RULES * 24, ContextLengthExceeded, "the context holds 1000"),
        ],
    )
    async def test_what_is_no_prefix(self, rig, instructions, error, says):
        async with rig() as r:
            with pytest.raises(error, match=says):
                await publish(r, instructions)
            assert await r.hub.publisher.every() == [] == await r.hub.store.prefixes.every()

    async def test_less_than_a_block_says_how_many_tokens_it_has_and_needs(self, rig):
        async with rig(block_size=64) as r:
            with pytest.raises(PrefixTooShort, match="a block has 64") as caught:
                await publish(r, "Be kind.")
            assert 0 < caught.value.tokens < caught.value.needed == 64
            assert await r.hub.store.prefixes.every() == []

    async def test_what_does_not_fit_the_pool(self, rig):
        async with rig(blocks=12) as r:
            with pytest.raises(CapacityExceeded, match="has room for 40"):
                await publish(r)
            assert await r.hub.store.prefixes.every() == []

    async def test_without_a_cache(self, rig):
        async with rig(caching=False) as r:
            with pytest.raises(NothingCached, match="prefix caching is off"):
                await publish(r)
            assert await r.hub.store.prefixes.every() == []

    async def test_a_label_that_has_others(self, rig):
        async with rig() as r:
            before = await publish(r)
            with pytest.raises(PrefixExists):
                await publish(r, RULES + "And be kind.")
            assert (await r.hub.publisher.known("support")).cache == before.cache

    async def test_a_step_that_fails_leaves_it_to_whoever_asks_first(self, rig):
        async with rig() as r:
            r.runner.raise_for.add(owner_of("1"))
            with pytest.raises(StepFailed, match="was not computed"):
                await publish(r)
            await ask(r, "ann")
            assert (await ask(r, "bob")).cached_tokens == (await r.hub.publisher.known("support")).cache.tokens

    async def test_an_engine_that_ends_meanwhile_is_told(self, rig):
        async with rig() as r:
            gate = r.hold()
            publishing = asyncio.ensure_future(publish(r))
            await eventually(lambda: r.hub.publisher._computing)
            r.hub.engine.send(None)
            gate.open()
            with pytest.raises(EngineStopped):
                await publishing

    async def test_who_publishes_may_leave(self, rig):
        async with rig() as r:
            gate = r.hold()
            publishing = asyncio.ensure_future(publish(r))
            await eventually(lambda: r.hub.publisher._computing)
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            gate.open()
            assert (await publish(r)).cache.device_tokens > 0


@pytest.fixture
def tiered(tokenizer, database, tmp_path):
    """``async with tiered() as r``: a hub on both lower tiers, whose disk outlives it."""

    @asynccontextmanager
    async def make(*, blocks=70, block_size=4, host=0):
        runner = ScriptedRunner(
            lambda prompt: tokenizer.encode_plain("ok"),
            vocab_size=tokenizer.backend.get_vocab_size(),
            eos=EOS, num_blocks=blocks, block_size=block_size, max_model_len=200,
        )  # fmt: skip
        config = EngineConfig(block_size=block_size, max_num_batched_tokens=64, max_num_seqs=16, lease_share=0.0)
        disk = DiskTier(tmp_path / "kv", 1 << 20)
        tiers = Tiers(runner, host=HostTier(host) if host else None, disk=disk, clock=lambda: 0.0)
        store = await Store.open(database, migrate=True)
        r = Rig(None, runner)
        r.disk = disk
        r.hub = SessionHub(
            store, tokenizer, lambda: Engine(config, runner, limits=Limits(64, 16), tiers=tiers), secret=b"s" * 32
        )
        await r.hub.open()
        try:
            yield r
        finally:
            await r.hub.close()
            await store.close()

    return make


@pytest.mark.parametrize("published", [True, False])
async def test_it_comes_back_from_disk_after_a_restart(tiered, published):
    async with tiered() as r:
        known = await publish(r) if published else None
        await ask(r, "ann")
    async with tiered() as r:
        if known:
            again = await r.hub.publisher.known("support")
            assert (again.cache.disk_tokens, again.cache.device_tokens) == (known.cache.tokens, 0)
        got = await ask(r, "bob")
        assert (got.disk_tokens, got.cached_tokens) == ((known.cache.tokens,) * 2 if known else (0, 0))


@pytest.mark.parametrize("published", [True, False])
async def test_it_comes_back_from_host_memory(tiered, published):
    async with tiered(host=1000) as r:
        known = await publish(r) if published else None
        await ask(r, "ann")
        for i in range(8):
            await r.ask(f"{i} is the number of another conversation, and this is what it says: " * 3, tenant="carol")
        if known:
            assert (await r.hub.publisher.known("support")).cache.device_tokens == 0
        got = await ask(r, "bob")
        assert (got.host_tokens, got.cached_tokens) == ((known.cache.tokens,) * 2 if known else (0, 0))


async def test_what_was_withdrawn_stays_withdrawn_after_a_restart(tiered):
    async with tiered() as r:
        await publish(r)
        await r.hub.publisher.withdraw("support")
    async with tiered() as r:
        assert await r.hub.publisher.every() == []
        assert (await ask(r, "ann")).published is None


async def test_another_block_size_cuts_it_elsewhere(tiered):
    async with tiered() as r:
        known = await publish(r)
    async with tiered(block_size=16) as r:
        again = await r.hub.publisher.known("support")
        assert again.cache.tokens == len(known.prefix.token_ids) // 16 * 16
        assert again.cache.disk_tokens == 0
    async with tiered(block_size=128) as r:
        assert (await r.hub.publisher.known("support")).cache is None


async def test_of_another_vocabulary_it_is_kept_and_not_shared(rig):
    async with rig() as r:
        known = await publish(r)
        await r.hub.store.prefixes.withdraw("support")
        await r.hub.store.prefixes.publish(msgspec.structs.replace(known.prefix, vocab="another"))
    async with rig() as r:
        assert (await r.hub.publisher.known("support")).cache is None
        assert (await ask(r, "ann")).published is None
        with pytest.raises(PrefixExists):
            await publish(r)


def test_no_session_has_the_owner_of_a_prefix():
    assert owner_of("x").partition("\0")[0] == ""
