import asyncio

import pytest

from chatpager.engine.sequence import SamplingParams
from chatpager.errors import (
    ContextLengthExceeded,
    ConversationNotFound,
    InputTooLong,
    InvalidRequest,
    Overloaded,
    PreviousResponseNotFound,
    RateLimited,
    ResponseNotFound,
    SessionBusy,
    TenantPaused,
)
from chatpager.sessions.answers import Delta
from chatpager.sessions.stream import Prefilled
from chatpager.store import Limits
from tests.looking import look
from tests.serving_client import eventually
from tests.sessions.conftest import TENANT


class TestOneTurnAtATime:
    async def test_turns_of_one_session_wait_in_order(self, rig):
        async with rig(lambda prompt: str(prompt.count("user\n"))) as r:
            session = await r.session()
            turns = await asyncio.gather(*(r.ask(f"m{i}", session=session) for i in range(5)))
            assert [ended.text for _, ended in turns] == ["1", "2", "3", "4", "5"]
            texts = [text for role, text, _ in await r.texts(session) if role == "user"]
            assert texts == ["m0", "m1", "m2", "m3", "m4"]

    async def test_turns_of_different_sessions_run_together(self, rig):
        async with rig() as r:
            gate = r.hold()
            sessions = [await r.session(f"conv_{i}") for i in range(3)]
            turns = [await r.hub.submit(r.request("a", session=s)) for s in sessions]
            assert len(r.hub.turns) == 3
            gate.open()
            assert [(await t.stream.end()).text for t in turns] == ["ok"] * 3

    async def test_going_on_from_an_answer_that_still_runs_is_refused(self, rig):
        async with rig() as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            with pytest.raises(SessionBusy):
                await r.hub.submit(r.request("b", previous=turn.id))
            gate.open()
            await turn.stream.end()

    async def test_a_waiter_that_gives_up_lets_the_next_one_in(self, rig):
        async with rig() as r:
            gate = r.hold()
            session = await r.session()
            turn = await r.hub.submit(r.request("a", session=session))
            waiter = asyncio.ensure_future(r.hub.submit(r.request("b", session=session)))
            await eventually(lambda: r.hub._admission._places.taken == 2)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            gate.open()
            await turn.stream.end()
            await r.ask("c", session=session)
            assert [t for role, t, _ in await r.texts(session) if role == "user"] == ["a", "c"]


class TestRefusals:
    async def test_what_is_refused_changes_nothing(self, rig):
        async with rig(length=40) as r:
            session = await r.session()
            for request, error in [
                (r.request("a", session="conv_none"), ConversationNotFound),
                (r.request("a", session=session, tenant="other"), ConversationNotFound),
                (r.request("a", previous="resp_none"), PreviousResponseNotFound),
                (r.request("word " * 20, session=session), ContextLengthExceeded),
                (r.request("word " * 60, session=session), InputTooLong),
                (r.request("word " * 8, params=SamplingParams(min_tokens=39, max_tokens=40)), ContextLengthExceeded),
            ]:
                with pytest.raises(error):
                    await r.hub.submit(request)
            assert await r.texts(session) == []
            assert r.hub.turns == {}
            assert (await r.ask("ok?", session=session))[1].text == "ok"

    async def test_too_many_turns_are_refused_early(self, rig):
        async with rig(max_turns=2) as r:
            gate = r.hold()
            session = await r.session()
            first = await r.hub.submit(r.request("a", session=session))
            waiting = asyncio.ensure_future(r.hub.submit(r.request("b", session=session)))
            await eventually(lambda: r.hub._admission._places.taken == 2)
            with pytest.raises(Overloaded) as caught:
                await r.hub.submit(r.request("c"))
            assert caught.value.retry_after > 0
            gate.open()
            await first.stream.end()
            await (await waiting).stream.end()
            await r.ask("d")

    async def test_turns_that_come_at_once_are_counted_before_they_have_begun(self, rig):
        async with rig(max_turns=4) as r:
            gate = r.hold()
            results = await asyncio.gather(*(r.hub.submit(r.request("a")) for _ in range(40)), return_exceptions=True)
            refused = [x for x in results if isinstance(x, Overloaded)]
            assert len(refused) == 36
            gate.open()
            for turn in results:
                if turn not in refused:
                    await turn.stream.end()
            await asyncio.gather(*(r.ask("b") for _ in range(4)))

    async def test_a_tenant_that_fills_the_queue_leaves_others_room(self, rig):
        async with rig(max_turns=10) as r:
            gate = r.hold()
            greedy = await asyncio.gather(*(r.hub.submit(r.request("a")) for _ in range(20)), return_exceptions=True)
            refused = [x for x in greedy if isinstance(x, RateLimited)]
            assert len(refused) == 12 and all(x.retry_after > 0 for x in refused)
            late = await r.hub.submit(r.request("b", tenant="other"))
            gate.open()
            for turn in [late, *(turn for turn in greedy if turn not in refused)]:
                assert (await turn.stream.end()).status == "completed"
            assert (await r.ask("c"))[1].status == "completed"

    async def test_a_tenant_s_own_number_of_turns(self, rig):
        async with rig(max_turns=10, max_turns_per_tenant=2) as r:
            gate = r.hold()
            session = await r.session()
            first = await r.hub.submit(r.request("a", session=session))
            waiting = asyncio.ensure_future(r.hub.submit(r.request("b", session=session)))
            await eventually(lambda: r.hub._admission._places.taken == 2)
            with pytest.raises(RateLimited, match="2 of this tenant's at most 2 turns are running or waiting"):
                await r.hub.submit(r.request("c"))
            with pytest.raises(InvalidRequest, match="n is at most 2 here \\(max_queue_per_tenant\\)"):
                await r.hub.submit(r.request("c", params=SamplingParams(temperature=1.0, max_tokens=2, n=3)))
            other = await r.hub.submit(r.request("d", tenant="other"))
            gate.open()
            for turn in (first, await waiting, other):
                await turn.stream.end()
            await r.ask("e")

    async def test_what_is_refused_takes_no_place(self, rig):
        async with rig(max_turns=1) as r:
            for _ in range(3):
                with pytest.raises(ConversationNotFound):
                    await r.hub.submit(r.request("a", session="conv_none"))
            assert (await r.ask("b"))[1].status == "completed"

    async def test_the_engines_refusal_becomes_a_failed_turn(self, rig):
        async with rig(blocks=12, length=1000) as r:
            session = await r.session()
            _, ended = await r.ask("word " * 40, session=session)
            assert (ended.status, ended.error_code) == ("failed", "kv_capacity_exceeded")
            assert ended.receipt is None
            assert (await r.texts(session))[-1][0] == "user"


class TestCancel:
    async def test_a_queued_a_prefilling_and_a_streaming_turn(self, rig):
        async with rig(lambda prompt: "word " * 100, step=16, length=2000) as r:
            gate = r.hold()
            queued = await r.hub.submit(r.request("a", max_tokens=400))
            r.hub.cancel(TENANT, queued.id)
            gate.open()
            assert (await queued.stream.end()).status == "cancelled"
            for stage, steps in ((Prefilled, 1), (Delta, 20)):
                gate = r.hold(after=steps)
                turn = await r.hub.submit(r.request("long " * 60, max_tokens=400))
                async for event in turn.stream.follow():
                    if isinstance(event, stage):
                        r.hub.cancel(TENANT, turn.id)
                        break
                gate.open()
                ended = await turn.stream.end()
                assert ended.status == "cancelled"
            stored = await r.hub.store.turn(TENANT, turn.id)
            message = (await r.hub.store.load_chain(TENANT, stored.tip_hash))[-1]
            assert message.status == "cancelled"
            assert message.content[0]["text"] == ended.text != ""
            assert (await r.hub.engine.stats()).memory.active == 0

    async def test_one_that_ended_or_is_anothers_is_not_found(self, rig):
        async with rig() as r:
            turn, _ = await r.ask("a")
            with pytest.raises(ResponseNotFound):
                r.hub.cancel(TENANT, turn.id)
            gate = r.hold()
            turn = await r.hub.submit(r.request("b"))
            with pytest.raises(ResponseNotFound):
                r.hub.cancel("other", turn.id)
            assert r.hub.turns.live("other", turn.id) is None
            assert r.hub.turns.live(TENANT, turn.id) is turn
            gate.open()
            await turn.stream.end()


async def test_nothing_is_computed_of_a_draft_whose_tenant_is_paused_while_its_prompt_is_made(rig):
    async with rig() as r:
        drafting = asyncio.ensure_future(r.hub.drafting.draft(r.request("hello " * 20), "writer", lambda: True))
        await asyncio.sleep(0)  # it is at the store
        r.hub.quotas.change(Limits(kind="tenant", name=TENANT, paused_at=1))
        with pytest.raises(TenantPaused):
            await drafting
        assert not await look(r.hub.engine, lambda engine: engine.leases.heads)
