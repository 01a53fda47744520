import asyncio
import threading

import pytest

from chatpager.engine.sequence import SamplingParams
from chatpager.engine.token_spelling import Spelled
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import (
    ConversationNotFound,
    PreviousResponseNotFound,
    ResponseNotFound,
)
from chatpager.sessions.answers import Delta
from chatpager.sessions.stream import Ended, Prefilled, Started
from chatpager.store.database import Database
from tests.gate import DEADLINE
from tests.sessions.conftest import TENANT


class TestATurn:
    async def test_is_stored_streamed_and_ended(self, rig):
        async with rig(lambda prompt: "hello there") as r:
            session = await r.session()
            turn = await r.hub.submit(r.request("hi", session=session))
            assert await r.texts(session) == [("user", "hi", "completed")], "acknowledged means stored"
            events = [e async for e in turn.stream.follow()]
            assert isinstance(events[0], Started)
            assert "".join(e.text for e in events if isinstance(e, Delta)) == "hello there"
            assert isinstance(events[-1], Ended)
            assert events[-1].text == "hello there"
            assert await r.texts(session) == [("user", "hi", "completed"), ("assistant", "hello there", "completed")]
            assert r.hub.turns == {}
            assert [i for i, _ in r.ended] == [turn.id]
            stored = await r.hub.store.turn(TENANT, turn.id)
            assert stored.status == "completed"
            assert stored.usage["input_tokens"] == len(turn.prompt)
            assert stored.receipt["computed_tokens"] == len(turn.prompt)
            assert stored.timings["ttft_ms"] > 0

    async def test_the_second_computes_only_what_is_new(self, rig):
        async with rig(lambda prompt: "an answer of some length") as r:
            session = await r.session()
            for _ in range(4):
                turn, ended = await r.ask("and a question", session=session)
            assert ended.receipt.device_tokens == len(turn.previous)
            assert ended.receipt.miss_reason is None
            assert ended.receipt.attainable_tokens == ended.receipt.device_tokens

    async def test_can_do_without_a_session(self, rig):
        async with rig(lambda prompt: str(prompt.count("user"))) as r:
            first, ended = await r.ask("a")
            assert ended.text == "1"
            _, left = await r.ask("b", previous=first.id)
            _, right = await r.ask("c", previous=first.id)
            assert (left.text, right.text) == ("2", "2"), "two continuations of one answer are a fork"
            assert left.receipt.device_tokens > 0

    async def test_instructions_stand_at_the_head_and_are_not_kept(self, rig):
        async with rig(lambda prompt: "yes" if prompt.startswith("system\nBe brief.") else "no") as r:
            session = await r.session()
            assert (await r.ask("a", session=session, instructions="Be brief."))[1].text == "yes"
            _, ended = await r.ask("b", session=session)
            assert ended.text == "no"
            assert ended.receipt.miss_reason == "diverged"

    async def test_a_long_prompt_tells_how_far_it_is(self, rig):
        async with rig(step=16) as r:
            turn = await r.hub.submit(r.request("long " * 30))
            events = [e async for e in turn.stream.follow()]
            progress = [e for e in events if isinstance(e, Prefilled)]
            assert [p.done for p in progress] == list(range(16, len(turn.prompt), 16))
            assert all(p.total == len(turn.prompt) for p in progress)

    async def test_ends_at_its_limit(self, rig):
        async with rig(lambda prompt: "one two three four five") as r:
            _, ended = await r.ask("a", max_tokens=2)
            assert (ended.status, ended.finish, ended.output_tokens) == ("incomplete", "length", 2)

    async def test_ends_at_a_stop_string(self, rig):
        async with rig(lambda prompt: "one two three") as r:
            session = await r.session()
            params = SamplingParams(temperature=0.0, max_tokens=40, stop="two")
            _, ended = await r.ask("a", session=session, params=params)
            assert (ended.status, ended.text) == ("completed", "one ")
            assert (await r.texts(session))[-1] == ("assistant", "one ", "completed")
            _, ended = await r.ask("b", session=session)
            assert ended.status == "completed"

    async def test_an_answer_of_nothing_is_an_answer(self, rig):
        async with rig(lambda prompt: "") as r:
            session = await r.session()
            _, ended = await r.ask("a", session=session)
            assert (ended.status, ended.text) == ("completed", "")
            assert (await r.texts(session))[-1] == ("assistant", "", "completed")
            assert (await r.ask("b", session=session))[1].status == "completed"

    async def test_that_is_not_stored_leaves_nothing(self, rig):
        async with rig() as r:
            turn, ended = await r.ask("a", stored=False)
            assert ended.text == "ok"
            with pytest.raises(ResponseNotFound):
                await r.hub.store.turn(TENANT, turn.id)
            with pytest.raises(PreviousResponseNotFound):
                await r.ask("b", previous=turn.id)

    async def test_the_wires_object_is_stored_at_its_end(self, rig):
        async with rig() as r:
            turn, _ = await r.ask("a", body=lambda turn, ended: {"text": ended.text, "id": turn.id})
            assert await r.hub.store.response(TENANT, turn.id) == {"text": "ok", "id": turn.id}


class TestLiveTurns:
    async def test_a_sessions_running_turn_can_be_found(self, rig):
        async with rig() as r:
            gate = r.hold()
            session = await r.session()
            turn = await r.hub.submit(r.request("a", session=session))
            assert r.hub.turns.of_session(TENANT, session) is turn
            assert r.hub.turns.of_session("other", session) is None
            gate.open()
            await turn.stream.end()
            assert r.hub.turns.of_session(TENANT, session) is None

    async def test_draining_an_idle_server_takes_no_time(self, rig):
        async with rig() as r:
            await r.hub.drain(100)


class TestTitles:
    async def test_a_session_is_called_by_its_first_words(self, rig):
        async with rig() as r:
            session = await r.session()
            await r.ask("  What   is a\nsession? " + "x" * 100, session=session)
            title = (await r.hub.store.session(TENANT, session)).title
            assert title.startswith("What is a session?")
            assert len(title) == 80
            await r.ask("another question", session=session)
            assert (await r.hub.store.session(TENANT, session)).title == title

    async def test_costs_a_turn_no_time_of_its_own(self, rig, monkeypatch):
        """The acknowledgement waits for one transaction."""
        async with rig() as r:
            session, names = await r.session(), []
            writing = Database.writing

            def watched(self, name, *args, **more):
                names.append(name)
                return writing(self, name, *args, **more)

            monkeypatch.setattr(Database, "writing", watched)
            gate = r.hold()
            turn = await r.hub.submit(r.request("hello", session=session))
            assert names == ["begin_turn"]
            gate.open()
            await turn.stream.end()

    async def test_a_title_that_was_given_stays(self, rig):
        async with rig() as r:
            await r.hub.store.create_session(TENANT, id="conv_t", title="Mine", now=1)
            await r.ask("hello", session="conv_t")
            assert (await r.hub.store.session(TENANT, "conv_t")).title == "Mine"


class TestTenants:
    async def test_do_not_wait_for_each_other_at_a_session_of_one_name(self, rig):
        async with rig() as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a", session=await r.session()))
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(ConversationNotFound):
                    await r.hub.submit(r.request("b", session="conv_1", tenant="other"))
            gate.open()
            await turn.stream.end()

    async def test_blocks_are_not_shared_between_tenants(self, rig):
        async with rig() as r:
            await r.ask("the very same words " * 5)
            _, same = await r.ask("the very same words " * 5)
            _, other = await r.ask("the very same words " * 5, tenant="other")
            assert same.receipt.device_tokens > 0
            assert other.receipt.device_tokens == 0


async def test_tokens_are_spelled_where_logprobs_are_told_and_off_the_loop(rig, monkeypatch):
    threads = []

    def spell(tokenizer):
        threads.append(threading.current_thread().name)
        return lambda token_id: Spelled("a", b"a")

    monkeypatch.setattr(Tokenizer, "spell", property(spell))
    async with rig() as r:
        await r.ask("Hello")
        assert threads == []
        await r.ask("Hello", params=SamplingParams(temperature=0.0, max_tokens=4, logprobs=0))
    assert [name.rsplit("_", 1)[0] for name in threads] == ["chatpager-tokenizer"]
