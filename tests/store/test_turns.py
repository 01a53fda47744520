import asyncio

import pytest
from msgspec import defstruct

from chatpager.errors import (
    ConversationNotFound,
    IdempotencyConflict,
    PreviousResponseNotFound,
    ResponseNotFound,
    SessionBusy,
)
from chatpager.store import BegunTurn, Finished, FinishedTurn, Turn, messages, sessions
from tests.store.making import VOCAB, begin, conversation, count, end, entry, texts, tip, user


@pytest.fixture
async def session(store):
    return await store.create_session("ann", id="conv_1", now=1)


# -- the beginning


async def test_a_turn_begins_with_its_input_stored_and_the_session_at_it(store, session):
    new = begin(
        "resp_1", user("be kind"), user("hi"), session_id="conv_1", request={"temperature": 0.5}, client_key="k", now=10
    )
    begun = await store.begin_turn(new)
    assert begun.turn == Turn(
        id="resp_1", tenant="ann", session_id="conv_1", previous_turn_id=None, parent_hash=None,
        input_tip=begun.messages[-1], tip_hash=None, kind="response", status="in_progress", model="m", vocab=VOCAB,
        client_key="k", request={"temperature": 0.5}, usage=None, receipt=None, timings=None, error=None,
        created_at=10, completed_at=None, owner=store.owner, owner_epoch=1,
    )  # fmt: skip
    assert not begun.duplicate
    assert await store.turn("ann", "resp_1") == begun.turn
    assert await store.active_turns("ann") == [begun.turn]
    assert await store.active_turns("bob") == []
    session = await store.session("ann", "conv_1")
    assert (session.tip_hash, session.updated_at) == (begun.messages[-1], 10)


async def test_a_session_elsewhere_than_the_caller_believes_changes_nothing(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    before = await count(store), await store.session("ann", "conv_1")
    for parent in (None, hashes[0]):
        with pytest.raises(SessionBusy):
            await store.begin_turn(begin("resp_2", user("new"), session_id="conv_1", parent_hash=parent))
    assert (await count(store), await store.session("ann", "conv_1")) == before


async def test_a_session_has_one_live_turn(store, session):
    begun = await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    before = await count(store)
    follow = {"session_id": "conv_1", "parent_hash": begun.messages[-1]}
    with pytest.raises(SessionBusy, match="another turn"):
        await store.begin_turn(begin("resp_2", user("and"), **follow))
    with pytest.raises(SessionBusy, match="another turn"):
        await store.begin_turn(begin("resp_3", **follow))
    assert await count(store) == before


async def test_of_turns_that_begin_at_once_one_wins(store, session):
    results = await asyncio.gather(
        *(store.begin_turn(begin(f"resp_{n}", user(f"hi {n}"), session_id="conv_1")) for n in range(8)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, BegunTurn)]
    assert len(won) == 1
    assert all(isinstance(result, SessionBusy) for result in results if result not in won)
    assert await count(store) == {"messages": 1, "sessions": 1, "turns": 1, "responses": 0, "turn_journal": 0}
    assert await tip(store, "conv_1") == won[0].turn.input_tip


async def test_of_turns_without_input_that_begin_at_once_one_wins(store, session):
    """Here the tip does not move, so that it alone could not tell."""
    (last,) = await store.append_messages("ann", "conv_1", [user("hi")], now=2)
    results = await asyncio.gather(
        *(store.begin_turn(begin(f"resp_{n}", session_id="conv_1", parent_hash=last)) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, BegunTurn) for result in results) == 1
    assert sum(isinstance(result, SessionBusy) for result in results) == 7


async def test_a_turn_needs_no_session(store):
    first = await store.begin_turn(begin("resp_1", user("hi")))
    done = await store.finish_turn(end("resp_1", "hello"))
    assert done == Finished(tip_hash=done.tip_hash, tip="no_session", status="completed")
    second = begin("resp_2", user("how?"), previous_turn_id="resp_1", parent_hash=done.tip_hash)
    begun = await store.begin_turn(second)
    chain = [m.hash for m in await store.load_chain("ann", begun.turn.input_tip)]
    assert chain == [*first.messages, done.tip_hash, *begun.messages]


async def test_what_a_turn_follows_must_exist(store, session):
    with pytest.raises(ConversationNotFound):
        await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_0"))
    with pytest.raises(PreviousResponseNotFound):
        await store.begin_turn(begin("resp_1", user("hi"), previous_turn_id="resp_0"))
    with pytest.raises(PreviousResponseNotFound):
        await store.begin_turn(begin("resp_1", user("hi"), parent_hash="b2:0"))
    assert await count(store) == {"messages": 0, "sessions": 1, "turns": 0, "responses": 0, "turn_journal": 0}


async def test_a_turn_answers_something(store):
    with pytest.raises(AssertionError, match="at least one message"):
        await store.begin_turn(begin("resp_1"))


async def test_an_id_is_given_once(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    before = await count(store)
    for tenant in ("ann", "bob"):
        with pytest.raises(IdempotencyConflict):
            await store.begin_turn(begin("resp_1", user("other"), tenant=tenant))
    assert await count(store) == before


async def test_another_answer_to_an_earlier_message(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    again = begin("resp_2", session_id="conv_1", parent_hash=hashes[0], expected_tip=hashes[1])
    begun = await store.begin_turn(again)
    assert (begun.messages, begun.turn.input_tip) == ((), hashes[0])
    assert await texts(store, "conv_1") == ["hi"]
    assert (await store.finish_turn(end("resp_2", "good day"))).tip == "moved"
    assert await texts(store, "conv_1") == ["hi", "good day"]
    assert (await store.turn("ann", "resp_conv_1_0")).tip_hash == hashes[1], "the first answer is still there"


async def test_a_conversation_begun_anew_in_the_same_session(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    await store.begin_turn(begin("resp_2", user("bye"), session_id="conv_1", expected_tip=hashes[-1]))
    assert await texts(store, "conv_1") == ["bye"]


# -- the same request twice


async def test_the_same_key_and_request_give_the_turn_that_exists(store, session):
    new = begin("resp_1", user("a"), user("b"), session_id="conv_1", client_key="k")
    first = await store.begin_turn(new)
    for finished in (False, True):
        if finished:
            await store.finish_turn(end("resp_1", "c"))
        again = begin("resp_2", user("a"), user("b"), session_id="conv_1", client_key="k", now=99)
        twin = await store.begin_turn(again)
        assert (twin.duplicate, twin.turn.id, twin.messages) == (True, "resp_1", first.messages)
    assert (await count(store))["turns"] == 1


async def test_the_same_key_finds_the_input_behind_what_it_followed(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    new = begin("resp_1", user("a"), session_id="conv_1", parent_hash=hashes[-1], client_key="k")
    first = await store.begin_turn(new)
    assert await store.begin_turn(new) == BegunTurn(turn=first.turn, messages=first.messages, duplicate=True)


@pytest.mark.parametrize("other", ["message", "session", "request"])
async def test_the_same_key_with_another_request_is_a_conflict(store, session, other):
    new = {"session_id": "conv_1", "client_key": "k", "request": {"temperature": 1.0}}
    await store.begin_turn(begin("resp_1", user("a"), **new))
    before = await count(store)
    changed = {"session": {"session_id": None}, "request": {"request": {"temperature": 0.5}}}.get(other, {})
    with pytest.raises(IdempotencyConflict):
        await store.begin_turn(begin("resp_2", user("b" if other == "message" else "a"), **(new | changed)))
    assert await count(store) == before


async def test_a_key_belongs_to_its_tenant(store):
    for tenant in ("ann", "bob"):
        begun = await store.begin_turn(begin(f"resp_{tenant}", user("a"), client_key="k", tenant=tenant))
        assert not begun.duplicate


async def test_of_twins_that_come_at_once_one_begins(store, session):
    twins = [begin(f"resp_{n}", user("a"), session_id="conv_1", client_key="k") for n in range(6)]
    begun = await asyncio.gather(*(store.begin_turn(twin) for twin in twins))
    assert sorted(b.duplicate for b in begun) == [False] + 5 * [True]
    assert len({b.turn.id for b in begun}) == 1
    assert (await count(store))["messages"] == 1


# -- the end


async def test_the_end_of_a_turn_is_stored_whole(store, session):
    begun = await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    await store.journal([entry("resp_1", 0, "hel")])
    facts = {"usage": {"in": 2}, "receipt": {"device": 0}, "timings": {"ttft_ms": 1.5}, "error": {"code": "x"}}
    done = await store.finish_turn(end("resp_1", "hello", status="incomplete", response={"id": "resp_1"}, **facts))
    assert done.tip == "moved"
    turn = await store.turn("ann", "resp_1")
    assert (turn.status, turn.tip_hash, turn.completed_at) == ("incomplete", done.tip_hash, 20)
    assert {name: getattr(turn, name) for name in facts} == facts
    assert await store.response("ann", "resp_1") == {"id": "resp_1"}
    last = (await store.load_chain("ann", done.tip_hash))[-1]
    assert (last.parent_hash, last.status, last.token_ids) == (begun.messages[-1], "incomplete", tuple(b"hello"))
    assert (await store.session("ann", "conv_1")).updated_at == 20
    assert (await count(store))["turn_journal"] == 0
    assert await store.active_turns("ann") == []


async def test_the_bodies_of_several_responses(store, session):
    one = defstruct("Body", [("id", str)])("resp_1")
    for id, body in (("resp_1", one), ("resp_2", None), ("resp_3", {"n": 3})):
        await store.begin_turn(begin(id, user("hi")))
        await store.finish_turn(end(id, "hello", response=body))
    await store.begin_turn(begin("resp_4", user("hi"), tenant="bob"))
    await store.finish_turn(end("resp_4", "hello", tenant="bob", response={"id": "bob's"}))
    asked = ["resp_1", "resp_2", "resp_4", "resp_none"]
    assert await store.responses("ann", asked) == {"resp_1": {"id": "resp_1"}}
    assert await store.responses("ann", []) == {}


async def test_a_turn_may_end_without_a_token(store, session):
    begun = await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    done = await store.finish_turn(end("resp_1", status="failed"))
    assert done == Finished(tip_hash=None, tip="moved", status="failed")
    assert (await store.turn("ann", "resp_1")).tip_hash is None
    assert await tip(store, "conv_1") == begun.messages[-1]
    assert await store.response("ann", "resp_1") is None


async def test_the_end_of_a_turn_whose_session_went_another_way_is_stored_beside_it(store, session):
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    async with store._database.write("test") as c:
        (other,) = await messages.insert(c, "ann", None, [user("bye")], 11)
        assert await sessions.move_tip(c, "ann", "conv_1", await tip(store, "conv_1"), other, 11, epoch=1)
    done = await store.finish_turn(end("resp_1", "hello"))
    assert done.tip == "session_moved"
    assert await texts(store, "conv_1") == ["bye"]
    assert (await store.turn("ann", "resp_1")).tip_hash == done.tip_hash


async def test_a_turn_ends_once(store, session):
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    first = await store.finish_turn(end("resp_1", "hello", response={"n": 1}))
    before = await count(store), await store.turn("ann", "resp_1")
    again = await store.finish_turn(end("resp_1", "good day", now=99, status="failed", response={"n": 2}))
    assert again == Finished(tip_hash=first.tip_hash, tip="already_finished", status="completed")
    assert (await count(store), await store.turn("ann", "resp_1")) == before


async def test_of_ends_that_come_at_once_one_counts(store, session):
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    ends = [end("resp_1", f"answer {n}", response={"n": n}) for n in range(6)]
    done = await asyncio.gather(*(store.finish_turn(each) for each in ends))
    assert sorted(d.tip for d in done) == 5 * ["already_finished"] + ["moved"]
    assert len({d.tip_hash for d in done}) == 1
    assert (await count(store))["messages"] == 2


async def test_the_end_of_a_deleted_turn_leaves_nothing(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.journal([entry("resp_1", 0, "h")])
    assert await store.delete_turn("ann", "resp_1") == 1
    done = await store.finish_turn(end("resp_1", "hello"))
    assert done == Finished(tip_hash=None, tip="turn_gone", status=None)
    assert set((await count(store)).values()) == {0}


# -- reading and deleting


async def test_turns_of_a_session_come_in_order_with_what_its_fork_inherited(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "so")
    await store.fork_session("ann", "conv_1", new_id="conv_2", at=hashes[1], now=5)
    begun = begin("resp_f", user("why?"), session_id="conv_2", parent_hash=hashes[1], now=6)
    await store.begin_turn(begun)
    done = await store.finish_turn(end("resp_f", "because", usage={"out": 7}, now=7))
    assert [t.id for t in await store.turns_of("ann", "conv_1")] == ["resp_conv_1_0", "resp_conv_1_1"]
    turns = await store.turns_of("ann", "conv_2")
    assert [(t.id, t.tip_hash) for t in turns] == [("resp_conv_1_0", hashes[1]), ("resp_f", done.tip_hash)]
    assert turns[-1].usage == {"out": 7}
    for latest in (1, 2, 9):
        assert await store.turns_of("ann", "conv_2", latest=latest) == turns[-latest:]


async def test_of_equal_conversations_each_shows_its_own_turns(store):
    await conversation(store, "conv_1", "hi", "hello")
    await conversation(store, "conv_2", "hi", "hello")
    assert await tip(store, "conv_1") == await tip(store, "conv_2")
    assert [t.id for t in await store.turns_of("ann", "conv_2")] == ["resp_conv_2_0"]
    await conversation(store, "conv_3", "hi", "hello", "how?", "so")
    await conversation(store, "conv_4", "hi", "hello", now=9)
    turns = await store.turns_of("ann", "conv_3", latest=1)
    assert [t.id for t in turns] == ["resp_conv_3_1"], (
        "another's is not inherited where one's own is too old to be told"
    )


async def test_deleting_a_turn_keeps_what_its_session_needs(store):
    await conversation(store, "conv_1", "hi", "hello")
    assert await store.delete_turn("ann", "resp_conv_1_0") == 0
    assert await texts(store, "conv_1") == ["hi", "hello"]
    with pytest.raises(ResponseNotFound):
        await store.turn("ann", "resp_conv_1_0")


async def test_deleting_a_turn_keeps_what_a_later_one_follows(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    done = await store.finish_turn(end("resp_1", "hello", response={"id": "resp_1"}))
    await store.begin_turn(begin("resp_2", user("how?"), previous_turn_id="resp_1", parent_hash=done.tip_hash))
    assert await store.delete_turn("ann", "resp_1") == 0
    with pytest.raises(ResponseNotFound):
        await store.response("ann", "resp_1")
    assert (await store.turn("ann", "resp_2")).previous_turn_id == "resp_1"
    assert await store.delete_turn("ann", "resp_2") == 3
    assert set((await count(store)).values()) == {0}


async def test_an_end_without_times_or_facts_is_an_end(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.finish_turn(FinishedTurn(id="resp_1", tenant="ann", status="cancelled", message=None, now=3))
    turn = await store.turn("ann", "resp_1")
    assert (turn.status, turn.usage, turn.receipt, turn.timings, turn.error) == ("cancelled", None, None, None, None)
