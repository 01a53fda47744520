import asyncio

import msgspec
import pytest

from chatpager.engine.sequence import SamplingParams
from chatpager.errors import (
    EngineStopped,
    StoreError,
)
from chatpager.sessions import delivery
from chatpager.sessions.answers import Delta
from chatpager.sessions.stream import Ended
from chatpager.store import Store
from tests.serving_client import eventually
from tests.sessions.conftest import TENANT


def unwritable(text, entry):
    """Only from the second token on, which comes with another turn's in one step."""
    return text, msgspec.structs.replace(entry, token_ids=[-1]) if entry and entry.first_index else entry


def is_end(events):
    return isinstance(events[0], Ended)


def breaks(monkeypatch, one, name, broken):
    """``broken`` in place of a method of this object alone; it is called with the method and its arguments."""
    kind = type(one)
    whole = getattr(kind, name)

    def method(self, *args):
        return broken(whole.__get__(self), *args) if self is one else whole(self, *args)

    monkeypatch.setattr(kind, name, method)


class TestFaults:
    async def test_a_turn_whose_step_fails_ends_alone(self, rig):
        async with rig() as r:
            r.runner.raise_for.add("resp_bad")
            bad = r.request("a")
            r.runner.raise_for = {bad.id}
            good, bad = await asyncio.gather(r.ask("b"), r.hub.submit(bad))
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "engine_step_failed")
            assert good[1].status == "completed"

    async def test_an_engine_that_dies_fails_what_runs_and_refuses_what_comes(self, rig):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold(after=2)
            turn = await r.hub.submit(r.request("a"))
            await eventually(lambda: gate.waited_for and len(turn.token_ids) == 2)
            r.engine.scheduler.commit = None  # the third step raises outside the engine's own care
            gate.open()
            ended = await turn.stream.end()
            assert (ended.status, ended.error_code, ended.output_tokens) == ("failed", "engine_stopped", 2)
            assert not r.hub.engine.alive
            with pytest.raises(EngineStopped):
                await r.hub.submit(r.request("b"))
            with pytest.raises(EngineStopped):
                await r.hub.engine.stats()

    async def test_a_turn_that_cannot_be_handed_over_fails(self, rig, monkeypatch):
        async with rig() as r:

            def stopped(command):
                raise EngineStopped("gone")

            monkeypatch.setattr(r.hub.engine, "send", stopped)
            _, ended = await r.ask("a")
            assert (ended.status, ended.error_code) == ("failed", "engine_stopped")

    async def test_tokens_that_cannot_be_journalled_are_not_shown(self, rig, monkeypatch):
        async with rig(lambda prompt: "secret words") as r:

            async def broken(entries):
                if entries:
                    raise StoreError("the disk is full")

            monkeypatch.setattr(r.hub.store, "journal", broken)
            turn = await r.hub.submit(r.request("a"))
            events = [e async for e in turn.stream.follow()]
            assert not [e for e in events if isinstance(e, Delta)]
            assert (events[-1].status, events[-1].error_code) == ("failed", "storage_unavailable")
            monkeypatch.undo()
            assert (await r.ask("b"))[1].status == "completed"

    @pytest.mark.parametrize("failures", [2, 3])
    async def test_tokens_wait_for_a_store_that_is_away_for_a_while(self, rig, monkeypatch, failures):
        async with rig(lambda prompt: "secret words", journal_pauses=(0.0, 0.0)) as r:
            shown = []

            async def away(journal, entries):
                shown.append([e for turn in r.hub.turns.values() for e in turn.stream.events if isinstance(e, Delta)])
                if len(shown) <= failures:
                    raise StoreError("the database is away")
                return await journal(entries)

            breaks(monkeypatch, r.hub.store, "journal", away)
            _, ended = await r.ask("a")
            assert not any(shown[: failures + 1])
            assert ended.status == ("completed" if failures == 2 else "failed")
            assert failures == 3 or ended.text == "secret words"

    async def test_a_store_that_does_not_answer_holds_tokens_no_longer_than_one_that_refuses(self, rig, monkeypatch):
        monkeypatch.setattr(delivery, "ATTEMPT_SECONDS", 0.01)
        async with rig(lambda prompt: "secret words", journal_pauses=(0.0,)) as r:

            async def hangs(journal, entries):
                await asyncio.Event().wait()

            breaks(monkeypatch, r.hub.store, "journal", hangs)
            turn, ended = await r.ask("a")
            assert (ended.status, ended.error_code) == ("failed", "storage_unavailable")
            assert not [e for e in turn.stream.events if isinstance(e, Delta)]

    async def test_an_end_that_cannot_be_stored_is_told_as_a_failure(self, rig, monkeypatch):
        async with rig() as r:

            async def broken(done):
                raise StoreError("the database is away")

            monkeypatch.setattr(r.hub.store, "finish_turn", broken)
            _, ended = await r.ask("a")
            assert (ended.status, ended.error_code) == ("failed", "storage_unavailable")
            assert r.hub.turns == {}

    async def test_a_mistake_in_one_turn_fails_that_turn_alone(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            bad, good = [await r.hub.submit(r.request("a")) for _ in range(2)]
            breaks(monkeypatch, bad, "take", lambda take, *step: 1 / 0)
            gate.open()
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            ended = await good.stream.end()
            assert (ended.status, ended.text) == ("completed", "a b c d")
            assert (await r.hub.engine.stats()).memory.active == 0

    async def test_a_mistake_in_showing_one_turn_fails_that_turn_alone(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            bad, good = [await r.hub.submit(r.request("a")) for _ in range(2)]
            breaks(monkeypatch, bad.stream, "extend", lambda extend, e, *at: extend(e, *at) if is_end(e) else 1 / 0)
            gate.open()
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            ended = await good.stream.end()
            assert (ended.status, ended.text) == ("completed", "a b c d")

    async def test_an_entry_that_cannot_be_written_down_fails_its_turn_alone(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            bad, good = [await r.hub.submit(r.request("a")) for _ in range(2)]
            breaks(monkeypatch, bad, "take", lambda take, *step: unwritable(*take(*step)))
            gate.open()
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            ended = await good.stream.end()
            assert (ended.status, ended.text) == ("completed", "a b c d")

    async def test_a_mistake_in_the_delivery_fails_the_turns_and_not_the_server(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            with monkeypatch.context() as patch:
                patch.setattr(r.hub._delivery, "_deliver", None)
                gate.open()
                ended = await turn.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            assert (await r.ask("b"))[1].status == "completed"

    @pytest.mark.parametrize("params", [{}, {"stop": "c"}], ids=["whole", "stopped"])
    async def test_a_mistake_at_the_end_fails_the_turn_and_frees_its_session(self, rig, params, capsys):
        def body(turn, ended):
            raise ValueError(f"a wire's mistake about {turn.text}")

        async with rig(lambda prompt: "a secret") as r:
            session = await r.session()
            params = SamplingParams(temperature=0.0, max_tokens=40, **params)
            turn, ended = await r.ask("private", session=session, body=body, params=params)
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            assert (await r.hub.store.turn(TENANT, turn.id)).status == "failed"
            assert await r.hub.store.response(TENANT, turn.id) is None
            assert (await r.texts(session))[-1] == ("assistant", ended.text, "failed")
            assert [i for i, _ in r.ended] == [turn.id]
            assert r.hub.turns == {}
            assert (await r.ask("more", session=session))[1].status == "completed"
        logged = capsys.readouterr().out
        assert "ValueError" in logged
        assert "body:" in logged, "it says where"
        assert "secret" not in logged
        assert "private" not in logged

    async def test_a_mistake_of_who_is_told_of_ends_harms_nobody(self, rig, capsys):
        def on_end(turn, ended):
            raise ValueError("a figure is missing")

        async with rig(on_end=on_end) as r:
            session = await r.session()
            for text in "ab":
                assert (await r.ask(text, session=session))[1].status == "completed"
            assert r.hub.turns == {}
        assert "on_end:" in capsys.readouterr().out

    async def test_a_title_that_cannot_be_stored_is_no_reason_to_fail(self, rig, monkeypatch):
        async with rig() as r:
            session = await r.session()

            async def broken(*args, **more):
                raise StoreError("locked")

            monkeypatch.setattr(r.hub.store, "update_session", broken)
            assert (await r.ask("a", session=session))[1].status == "completed"


class TestAnotherServer:
    """It took the claim over, and ended what ran here: nothing that it did not store may be told."""

    async def test_stores_no_more_tokens_of_a_turn_and_none_is_shown(self, rig, database):
        async with rig(lambda prompt: "a b c d e f g h") as r:
            session = await r.session()
            gate = r.hold(after=3)
            turn = await r.hub.submit(r.request("a", session=session))
            async for event in turn.stream.follow():
                if isinstance(event, Delta):
                    break
            other = await Store.open(database, migrate=False)
            assert [done.turn_id for done in await other.recover(99)] == [turn.id]
            await other.close()
            gate.open()
            ended = await turn.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "turn_taken")
            assert "ask any server for it, and go on there" in ended.error_message
            assert ended.text == turn.stream.text
            assert (await r.texts(session))[1:] == [("assistant", ended.text, "interrupted")]
            assert (await r.ask("b", session=session))[1].status == "completed"

    async def test_stored_another_end(self, rig, monkeypatch):
        async with rig() as r:
            session = await r.session()
            finish_turn = r.hub.store.finish_turn

            async def late(done):
                await r.hub.store.recover(99)
                return await finish_turn(done)

            monkeypatch.setattr(r.hub.store, "finish_turn", late)
            turn, ended = await r.ask("a", session=session)
            assert (ended.status, ended.error_code) == ("failed", "storage_unavailable")
            assert (await r.texts(session))[1:] == [("assistant", ended.text, "interrupted")]
            assert turn.stream.text == ended.text == "ok"

    async def test_deleted_the_turn(self, rig, monkeypatch):
        async with rig() as r:
            finish_turn = r.hub.store.finish_turn

            async def late(done):
                await r.hub.store.delete_turn(TENANT, done.id)
                return await finish_turn(done)

            monkeypatch.setattr(r.hub.store, "finish_turn", late)
            _, ended = await r.ask("a")
            assert (ended.status, ended.error_code, ended.text) == ("cancelled", None, "ok")

    async def test_has_nothing_to_do_with_an_end_that_was_stored_and_lost_its_acknowledgement(self, rig, monkeypatch):
        async with rig(pauses=(0,)) as r:
            finish_turn = r.hub.store.finish_turn

            async def unheard(done):
                await finish_turn(done)
                monkeypatch.undo()
                raise StoreError("the connection was lost")

            monkeypatch.setattr(r.hub.store, "finish_turn", unheard)
            _, ended = await r.ask("a")
            assert (ended.status, ended.text) == ("completed", "ok")
