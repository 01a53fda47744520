import asyncio
import threading

import pytest

from chatpager import failpoints
from chatpager.errors import (
    ModelLoadError,
    Overloaded,
    StoreError,
)
from chatpager.sessions.answers import Delta
from chatpager.sessions.hub import SessionHub
from chatpager.store import Store
from tests.chat_models import EOS
from tests.serving_client import eventually
from tests.sessions.conftest import TENANT


class TestOpeningAndClosing:
    async def test_an_answer_that_lacked_only_its_end_goes_on_token_exact(self, rig, monkeypatch):
        async with rig() as r:
            session = await r.session()
            arrived = asyncio.Event()
            monkeypatch.setattr(r.hub._delivery, "end", lambda turn, **how: arrived.set())
            turn = await r.hub.submit(r.request("a", session=session))
            await arrived.wait()
        async with rig() as r:
            assert (await r.texts(session))[-1] == ("assistant", "ok", "interrupted")
            again, _ = await r.ask("b", session=session)
            assert list(again.prompt)[: len(turn.prompt) + len(turn.token_ids)] == [*turn.prompt, *turn.token_ids]
            assert list(again.prompt).count(EOS) == list(turn.prompt).count(EOS) + 2

    async def test_what_a_crash_left_running_is_interrupted(self, rig, monkeypatch):
        async with rig(lambda prompt: "one two three four") as r:
            session = await r.session()
            monkeypatch.setattr(r.hub._delivery, "end", lambda turn, **how: None)
            turn = await r.hub.submit(r.request("a", session=session))
            seen = ""
            async for event in turn.stream.follow():
                seen += event.text if isinstance(event, Delta) else ""
                if len(seen) > 5:
                    break
        async with rig() as r:
            role, text, status = (await r.texts(session))[-1]
            assert (role, status) == ("assistant", "interrupted")
            assert text.startswith(seen)
            assert (await r.ask("go on", session=session))[1].status == "completed"

    async def test_closing_gives_running_turns_time(self, rig):
        async with rig(lambda prompt: "slow but sure") as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            draining = asyncio.ensure_future(r.hub.drain(10))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await r.hub.submit(r.request("b"))
            gate.open()
            await draining
            assert turn.stream.ended.text == "slow but sure"

    async def test_what_does_not_end_in_time_is_interrupted(self, rig):
        async with rig(lambda prompt: "word " * 200, length=3000) as r:
            session = await r.session()
            gate = r.hold(after=20)
            turn = await r.hub.submit(r.request("a", session=session, max_tokens=900))
            await eventually(lambda: gate.waited_for)
            await r.hub.drain(0)
            closing = asyncio.ensure_future(r.hub.close())
            await eventually(lambda: not r.hub.engine._commands.empty())
            gate.open()
            await closing
            assert (turn.stream.ended.status, turn.stream.ended.output_tokens) == ("interrupted", 21)
            assert (await r.texts(session))[-1] == ("assistant", turn.stream.ended.text, "interrupted")

    async def test_what_the_engines_last_step_brings_is_delivered(self, rig):
        async with rig(lambda prompt: "") as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a", session=await r.session()))
            await eventually(lambda: gate.waited_for)
            closing = asyncio.ensure_future(r.hub.close())
            assert not (await asyncio.wait([closing, r.hub._delivering], timeout=0.2))[0]
            gate.open()
            await closing
            assert turn.stream.ended.status == "completed"

    async def test_what_begins_as_the_server_closes_ends_with_it(self, rig, monkeypatch):
        async with rig() as r:
            begin_turns, inside, gate = r.hub.store.begin_turns, asyncio.Event(), asyncio.Event()

            async def slow(new):
                begun = await begin_turns(new)
                inside.set()
                await gate.wait()
                return begun

            monkeypatch.setattr(r.hub.store, "begin_turns", slow)
            beginning = asyncio.ensure_future(r.hub.submit(r.request("a")))
            await inside.wait()
            await r.hub.drain(0)
            closing = asyncio.ensure_future(r.hub.close())
            assert not (await asyncio.wait([closing], timeout=0.2))[0]
            gate.set()
            await closing
            turn = await beginning
            assert turn.stream.ended is not None
            assert (await r.hub.store.turn(TENANT, turn.id)).status == turn.stream.ended.status

    async def test_draining_waits_for_what_is_beginning(self, rig):
        async with rig() as r:
            beginning = asyncio.ensure_future(r.hub.submit(r.request("a")))
            await asyncio.sleep(0)
            assert r.hub.turns == {}
            await r.hub.drain(10)
            with pytest.raises(Overloaded):
                await beginning

    @pytest.mark.parametrize("fails", ["claim", "recover", "model", "nothing was opened"])
    async def test_a_hub_that_did_not_open_leaves_no_thread_and_can_be_closed(
        self, tokenizer, database, monkeypatch, fails
    ):
        def build():
            raise ModelLoadError("/nowhere", "no such folder")

        async def refuse(*args, **more):
            raise StoreError("the database is away")

        store = await Store.open(database, migrate=True)
        before = set(threading.enumerate())
        hub = SessionHub(store, tokenizer, build)
        if fails in ("claim", "recover"):
            monkeypatch.setattr(store, fails, refuse)
        if not fails.startswith("nothing"):
            with pytest.raises(ModelLoadError if fails == "model" else StoreError, match=r"no such folder|away"):
                await hub.open()
        assert not [t for t in threading.enumerate() if t.name == "chatpager-engine"]
        for _ in range(2):
            await hub.close()
        await store.close()
        assert not [t for t in set(threading.enumerate()) - before if "engine" in t.name or "tokenizer" in t.name]

    async def test_a_start_that_is_given_up_while_the_model_loads_leaves_no_thread(self, tokenizer, database):
        loading, gate = threading.Event(), threading.Event()

        def build():
            loading.set()
            gate.wait()
            raise ModelLoadError("/nowhere", "too late")

        store = await Store.open(database, migrate=True)
        hub = SessionHub(store, tokenizer, build)
        opening = asyncio.ensure_future(hub.open())
        await asyncio.to_thread(loading.wait)
        opening.cancel()
        asyncio.get_running_loop().call_later(0.01, gate.set)
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not [t for t in threading.enumerate() if t.name == "chatpager-engine"]
        await hub.close()
        await store.close()

    async def test_the_terminal_event_has_a_place_to_break_at(self, rig):
        failpoints.arm("sessions.before_terminal_event=raise", {"CHATPAGER_TEST_MODE": "1"})
        try:
            async with rig() as r:
                turn = await r.hub.submit(r.request("a"))
                stored = asyncio.Event()
                finish_turn = r.hub.store.finish_turn

                async def noted(done):
                    finished = await finish_turn(done)
                    stored.set()
                    return finished

                r.hub.store.finish_turn = noted
                await stored.wait()
                assert (await turn.stream.end()).status == "completed", "what is stored is told all the same"
                assert failpoints._armed == {}
        finally:
            failpoints.arm("")
