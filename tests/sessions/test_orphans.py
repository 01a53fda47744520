"""A store that fails for a moment must not cost a conversation more than that moment."""

import asyncio

import pytest

from chatpager.engine.messages import CancelRequest
from chatpager.errors import ConversationNotFound, Overloaded, ResponseNotFound, StoreError
from chatpager.sessions.stream import Started
from tests.sessions.conftest import TENANT


def failing(operation, times):
    """``operation`` of a store, but its first ``times`` calls fail."""
    left = [times]

    async def call(*args, **more):
        if left[0]:
            left[0] -= 1
            raise StoreError("the database is locked")
        return await operation(*args, **more)

    call.left = left
    return call


async def test_an_end_that_could_not_be_stored_at_once_is_stored_soon(rig, monkeypatch):
    async with rig(pauses=(0, 0)) as r:
        session = await r.session()
        monkeypatch.setattr(r.hub.store, "finish_turn", failing(r.hub.store.finish_turn, 2))
        turn, ended = await r.ask("a", session=session)
        assert r.hub.store.finish_turn.left == [0]
        assert ended.status == "completed"
        assert (await r.hub.store.turn(TENANT, turn.id)).status == "completed"
        assert await r.texts(session) == [("user", "a", "completed"), ("assistant", "ok", "completed")]


async def test_an_end_that_is_not_stored_does_not_lock_its_session(rig, monkeypatch):
    async with rig(lambda prompt: "ok" if "ok" in prompt else "so ok", pauses=(0,)) as r:
        session = await r.session()
        monkeypatch.setattr(r.hub.store, "finish_turn", failing(r.hub.store.finish_turn, 2))
        first, ended = await r.ask("a", session=session)
        assert (ended.status, ended.error_code) == ("failed", "storage_unavailable")
        assert (await r.hub.store.turn(TENANT, first.id)).status == "in_progress"
        _, ended = await r.ask("b", session=session)
        assert (ended.status, ended.text) == ("completed", "ok"), "what was shown of the first answer is remembered"
        assert (await r.hub.store.turn(TENANT, first.id)).status == "interrupted"
        assert await r.texts(session) == [
            ("user", "a", "completed"),
            ("assistant", "so ok", "interrupted"),
            ("user", "b", "completed"),
            ("assistant", "ok", "completed"),
        ]


async def test_an_answer_whose_end_is_not_stored_can_be_gone_on_from(rig, monkeypatch):
    async with rig(lambda prompt: str(prompt.count("user\n")), pauses=()) as r:
        monkeypatch.setattr(r.hub.store, "finish_turn", failing(r.hub.store.finish_turn, 1))
        first, ended = await r.ask("a")
        assert ended.status == "failed"
        assert (await r.ask("b", previous=first.id))[1].text == "2"
        assert (await r.hub.store.turn(TENANT, first.id)).status == "interrupted"


async def test_messages_can_be_added_behind_an_answer_whose_end_is_not_stored(rig, monkeypatch):
    async with rig(pauses=()) as r:
        session = await r.session()
        monkeypatch.setattr(r.hub.store, "finish_turn", failing(r.hub.store.finish_turn, 1))
        await r.ask("a", session=session)
        await r.hub.revising.append(TENANT, session, [r.request("b").messages[0]])
        assert [text for _, text, _ in await r.texts(session)] == ["a", "ok", "b"]


async def test_turns_that_run_are_no_orphans(rig, monkeypatch):
    """Whoever ends one orphan must leave alone what runs, and what is just beginning."""
    async with rig(pauses=()) as r:
        monkeypatch.setattr(r.hub.store, "finish_turn", failing(r.hub.store.finish_turn, 1))
        orphan, _ = await r.ask("a")
        gate = r.hold()
        running = await r.hub.submit(r.request("b", session=await r.session()))
        begin_turns, stored, go_on = r.hub.store.begin_turns, asyncio.Event(), asyncio.Event()

        async def slow(new):
            begun = await begin_turns(new)
            stored.set()
            await go_on.wait()
            return begun

        monkeypatch.setattr(r.hub.store, "begin_turns", slow)
        beginning = asyncio.ensure_future(r.hub.submit(r.request("c")))
        await stored.wait()
        monkeypatch.setattr(r.hub.store, "begin_turns", begin_turns)
        follower = await r.hub.submit(r.request("d", previous=orphan.id))
        go_on.set()
        gate.open()
        for turn in (running, await beginning, follower):
            assert (await turn.stream.end()).status == "completed"
            assert (await r.hub.store.turn(TENANT, turn.id)).status == "completed"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_caller_who_is_cancelled_while_the_turn_is_stored_leaves_it_running(rig, monkeypatch, when):
    async with rig() as r:
        session = await r.session()
        begin_turns = r.hub.store.begin_turns

        async def cancelled(new):
            if when == "before":
                asyncio.get_running_loop().call_soon(submitting.cancel)
            begun = await begin_turns(new)
            submitting.cancel()
            await asyncio.sleep(0)
            return begun

        monkeypatch.setattr(r.hub.store, "begin_turns", cancelled)
        request = r.request("a", session=session)
        submitting = asyncio.ensure_future(r.hub.submit(request))
        with pytest.raises(asyncio.CancelledError):
            await submitting
        monkeypatch.undo()
        assert (await r.ask("b", session=session))[1].status == "completed"
        assert (await r.hub.store.turn(TENANT, request.id)).status == "completed"
        assert [text for _, text, _ in await r.texts(session)] == ["a", "ok", "b", "ok"]


async def test_a_turn_whose_caller_was_cancelled_keeps_its_place_until_it_ends(rig, monkeypatch):
    async with rig(max_turns=1) as r:
        gate, begin_turns = r.hold(), r.hub.store.begin_turns

        async def cancelled(new):
            begun = await begin_turns(new)
            submitting.cancel()
            await asyncio.sleep(0)
            return begun

        monkeypatch.setattr(r.hub.store, "begin_turns", cancelled)
        submitting = asyncio.ensure_future(r.hub.submit(r.request("a", session=await r.session())))
        with pytest.raises(asyncio.CancelledError):
            await submitting
        monkeypatch.undo()
        (turn,) = r.hub.turns.values()
        with pytest.raises(Overloaded):
            await r.hub.submit(r.request("b"))
        gate.open()
        await turn.stream.end()
        assert (await r.ask("b"))[1].status == "completed"


async def test_a_caller_who_is_cancelled_while_the_store_refuses_leaves_nothing(rig, monkeypatch):
    async with rig() as r:
        session = await r.session()

        async def refused(new):
            submitting.cancel()
            await asyncio.sleep(0)
            raise StoreError("locked")

        monkeypatch.setattr(r.hub.store, "begin_turns", refused)
        submitting = asyncio.ensure_future(r.hub.submit(r.request("a", session=session)))
        with pytest.raises(asyncio.CancelledError):
            await submitting
        monkeypatch.undo()
        assert r.hub.turns == {}
        assert (await r.ask("b", session=session))[1].status == "completed"


async def test_a_session_deleted_as_its_first_turn_begins_ends_no_turn(rig, monkeypatch):
    async with rig() as r:
        session = await r.session()
        begin_turns = r.hub.store.begin_turns

        async def deleted(new):
            begun = await begin_turns(new)
            await r.hub.store.delete_session(TENANT, session)
            return begun

        monkeypatch.setattr(r.hub.store, "begin_turns", deleted)
        turn, ended = await r.ask("a", session=session)
        assert (ended.status, ended.text) == ("completed", "ok")
        assert isinstance(turn.stream.events[0], Started)
        assert await r.hub.store.active_turns(TENANT) == []
        with pytest.raises(ConversationNotFound):
            await r.ask("b", session=session)


async def test_a_turn_that_never_was_is_still_unknown(rig):
    async with rig() as r:
        with pytest.raises(ResponseNotFound):
            await r.hub.store.turn(TENANT, "resp_none")
        assert await r.hub.store.recover(5, ["resp_none"]) == []


async def test_a_turn_that_is_just_beginning_is_ended_before_its_tenant_is_erased(rig, monkeypatch):
    storing, may_go_on, ends = asyncio.Event(), asyncio.Event(), []
    async with rig(lambda prompt: "ok " * 900, step=1) as r:
        begin_turns, delete_turn, send = r.hub.store.begin_turns, r.hub.store.delete_turn, r.hub.engine.send
        r.runner.gate.hold()  # until it is cancelled: it may not come to its own end before

        async def begins(rows):
            storing.set()
            await may_go_on.wait()
            return await begin_turns(rows)

        async def deletes(tenant, turn_id):
            ends.append(r.hub.turns.live(tenant, turn_id))
            return await delete_turn(tenant, turn_id)

        def sends(command):
            send(command)
            if isinstance(command, CancelRequest):
                r.runner.gate.open()

        monkeypatch.setattr(r.hub.engine, "send", sends)
        monkeypatch.setattr(r.hub.store, "begin_turns", begins)
        monkeypatch.setattr(r.hub.store, "delete_turn", deletes)
        submitting = asyncio.ensure_future(r.hub.submit(r.request("a", max_tokens=900)))
        await storing.wait()
        erasing = asyncio.ensure_future(r.hub.erasing.tenant(TENANT, lambda: None))
        for _ in range(3):
            await asyncio.sleep(0)
        may_go_on.set()
        turn = await submitting
        assert (await erasing).turns == 1
        assert turn.stream.ended.status == "cancelled" and ends == [None]
        assert not r.hub.turns and not await r.hub.store.tenants.turns_alone(TENANT, 1)
