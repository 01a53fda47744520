import asyncio

import pytest

from chatpager.errors import (
    ConversationNotFound,
    InvalidRequest,
    SessionBusy,
    StoreError,
    TooManyConversations,
    TooManyForks,
)
from chatpager.store import DeletedSession, Session
from tests.store.making import answer, begin, conversation, count, end, entry, texts, tip, user


async def test_a_session_is_given_back_as_it_was_made(store):
    made = await store.create_session(
        "ann", id="conv_1", title="Über 你", metadata={"a": [1, None]}, parameters={"temperature": 0.5}, now=3
    )
    assert made == Session(
        id="conv_1", tenant="ann", tip_hash=None, forked_from=None, title="Über 你", metadata={"a": [1, None]},
        parameters={"temperature": 0.5}, created_at=3, updated_at=3,
    )  # fmt: skip
    assert await store.session("ann", "conv_1") == made


async def test_an_id_is_given_once(store):
    made = await store.create_session("ann", id="conv_1", now=1)
    with pytest.raises(StoreError, match="breaks its rules"):
        await store.create_session("bob", id="conv_1", now=2)
    assert await store.session("ann", "conv_1") == made


async def test_an_update_changes_what_it_names_and_is_no_activity(store):
    made = await store.create_session("ann", id="conv_1", title="old", metadata={"k": 1}, now=1)
    renamed = await store.update_session("ann", "conv_1", title="new")
    assert (renamed.title, renamed.metadata, renamed.updated_at) == ("new", {"k": 1}, 1)
    changed = await store.update_session("ann", "conv_1", metadata={}, parameters={"top_p": 1})
    assert (changed.title, changed.metadata, changed.parameters) == ("new", {}, {"top_p": 1})
    assert await store.update_session("ann", "conv_1") == changed
    assert made.title == "old"


async def test_a_title_that_one_database_could_not_store_is_refused_on_both(store):
    with pytest.raises(InvalidRequest, match="NUL"):
        await store.create_session("ann", id="conv_1", title="a\0b", now=1)
    await store.create_session("ann", id="conv_1", now=1)
    with pytest.raises(InvalidRequest, match="NUL") as caught:
        await store.update_session("ann", "conv_1", title="a\0b")
    assert caught.value.param == "title"


# -- the list


async def listed(store, **page):
    rows, more = await store.list_sessions("ann", **page)
    return [row.id for row in rows], more


async def test_the_list_begins_with_the_latest_activity(store):
    for id, now in (("conv_a", 1), ("conv_b", 2), ("conv_c", 2)):
        await store.create_session("ann", id=id, now=now)
    await store.create_session("bob", id="conv_z", now=9)
    assert await listed(store, limit=10) == (["conv_c", "conv_b", "conv_a"], False)
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_a", now=5))
    assert await listed(store, limit=10) == (["conv_a", "conv_c", "conv_b"], False)


async def test_pages_hold_every_session_once(store):
    ids = [f"conv.{n}" for n in range(7)]
    for n, id in enumerate(ids):
        await store.create_session("ann", id=id, now=n // 3)
    seen, after, more = [], None, True
    while more:
        rows, more = await store.list_sessions("ann", limit=2, after=after)
        seen += [row.id for row in rows]
        after = rows[-1].cursor
    assert seen == sorted(ids, reverse=True)


async def test_a_cursor_stays_where_it_was_when_its_session_moves_or_goes(store):
    for n in range(4):
        await store.create_session("ann", id=f"conv_{n}", now=n)
    rows, _ = await store.list_sessions("ann", limit=2)
    after = rows[-1].cursor
    await store.append_messages("ann", "conv_2", [user("hi")], now=9)
    assert await listed(store, limit=2, after=after) == (["conv_1", "conv_0"], False)
    await store.delete_session("ann", "conv_2")
    assert await listed(store, limit=1, after=after) == (["conv_1"], True)


@pytest.mark.parametrize(
    "after", ["", "conv_1", "1.", ".conv_1", "x.conv_1", "-1.conv_1", "²." + "x", "9" * 19 + ".x", "1.\0"]
)
async def test_what_is_no_cursor_is_refused(store, after):
    with pytest.raises(InvalidRequest) as caught:
        await store.list_sessions("ann", limit=1, after=after)
    assert caught.value.param == "after"


# -- another past


async def test_a_session_goes_back_and_forth_between_its_answers(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "fine")
    before = await count(store)
    session = await store.rewind_session("ann", "conv_1", to=hashes[1])
    assert (session.tip_hash, session.updated_at) == (hashes[1], 1)
    assert await texts(store, "conv_1") == ["hi", "hello"]
    assert await count(store) == before, "what turns said stays"
    await store.rewind_session("ann", "conv_1", to=hashes[3])
    assert await texts(store, "conv_1") == ["hi", "hello", "how?", "fine"]


async def test_what_no_turn_said_goes_when_it_is_left_behind(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    before = await count(store)
    await store.append_messages("ann", "conv_1", [user("one"), user("two")], now=5)
    await store.rewind_session("ann", "conv_1", to=hashes[1])
    assert await count(store) == before


async def test_a_session_does_not_go_where_it_never_was_or_while_a_turn_runs(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    other = await conversation(store, "conv_2", "you", "too")
    with pytest.raises(InvalidRequest):
        await store.rewind_session("ann", "conv_1", to=other[1])
    await store.begin_turn(begin("resp_1", user("and?"), session_id="conv_1", parent_hash=hashes[1]))
    before = await count(store), await tip(store, "conv_1")
    with pytest.raises(SessionBusy):
        await store.rewind_session("ann", "conv_1", to=hashes[1])
    with pytest.raises(SessionBusy):
        await store.compact_session("ann", "conv_1", expected=before[1], new=[user("short")], now=9)
    assert (await count(store), await tip(store, "conv_1")) == before


async def test_a_session_is_compacted_where_it_was_found(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "fine")
    before = await count(store)
    with pytest.raises(SessionBusy):
        await store.compact_session("ann", "conv_1", expected=hashes[1], new=[user("short")], now=9)
    assert await count(store) == before
    new = [user("they greeted"), user("how?"), answer("fine")]
    session = await store.compact_session("ann", "conv_1", expected=hashes[3], new=new, now=9)
    chain = await store.load_chain("ann", session.tip_hash)
    assert [m.token_ids for m in chain] == [m.token_ids and tuple(m.token_ids) for m in new]
    assert await count(store) == {**before, "messages": before["messages"] + 3}
    assert await store.verify("ann", session.tip_hash) == []
    await store.delete_session("ann", "conv_1")
    assert not any((await count(store)).values())


# -- messages without a turn


async def test_messages_are_appended_without_a_turn(store):
    await store.create_session("ann", id="conv_1", now=1)
    first = await store.append_messages("ann", "conv_1", [user("a"), answer("b")], now=2)
    second = await store.append_messages("ann", "conv_1", [user("c")], now=3)
    session = await store.session("ann", "conv_1")
    assert (session.tip_hash, session.updated_at) == (second[0], 3)
    assert [m.hash for m in await store.load_chain("ann", session.tip_hash)] == [*first, *second]
    assert await store.append_messages("ann", "conv_1", [], now=4) == ()
    assert await store.session("ann", "conv_1") == session


async def test_nothing_is_appended_while_a_turn_runs(store):
    await store.create_session("ann", id="conv_1", now=1)
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    with pytest.raises(SessionBusy):
        await store.append_messages("ann", "conv_1", [user("more")], now=2)
    assert await texts(store, "conv_1") == ["hi"]


async def test_of_messages_appended_at_once_none_is_lost(store):
    await store.create_session("ann", id="conv_1", now=1)
    await asyncio.gather(*(store.append_messages("ann", "conv_1", [user(str(n))], now=2) for n in range(12)))
    assert sorted(await texts(store, "conv_1"), key=int) == [str(n) for n in range(12)]


# -- forks


async def test_a_fork_shares_every_message_and_goes_its_own_way(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "so")
    await store.update_session("ann", "conv_1", title="T", metadata={"m": 1}, parameters={"p": 1})
    before = await count(store)
    fork = await store.fork_session("ann", "conv_1", new_id="conv_2", now=50)
    assert await count(store) == before | {"sessions": 2}
    assert fork == Session(
        id="conv_2", tenant="ann", tip_hash=hashes[-1], forked_from="conv_1", title="T", metadata={"m": 1},
        parameters={"p": 1}, created_at=50, updated_at=50, root="conv_1",
    )  # fmt: skip
    await store.append_messages("ann", "conv_2", [user("mine")], now=51)
    assert await texts(store, "conv_1") == ["hi", "hello", "how?", "so"]
    assert await texts(store, "conv_2") == ["hi", "hello", "how?", "so", "mine"]


async def test_a_fork_may_begin_at_any_message_of_the_session(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "so")
    fork = await store.fork_session("ann", "conv_1", new_id="conv_2", at=hashes[1], now=50)
    assert await texts(store, fork.id) == ["hi", "hello"]


async def test_a_fork_may_begin_on_a_branch_that_the_session_has_left(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    again = begin("resp_2", session_id="conv_1", parent_hash=hashes[0], expected_tip=hashes[1])
    await store.begin_turn(again)
    await store.finish_turn(end("resp_2", "good day"))
    assert await texts(store, "conv_1") == ["hi", "good day"]
    await store.fork_session("ann", "conv_1", new_id="conv_2", at=hashes[1], now=50)
    assert await texts(store, "conv_2") == ["hi", "hello"]


async def test_a_fork_at_a_message_of_another_session_is_refused(store):
    await conversation(store, "conv_1", "hi", "hello")
    other = await conversation(store, "conv_2", "bye", "adieu")
    with pytest.raises(InvalidRequest, match="has no message") as caught:
        await store.fork_session("ann", "conv_1", new_id="conv_3", at=other[0], now=50)
    assert caught.value.param == "at"


async def test_so_many_forks_of_a_conversation_and_no_more_however_they_are_made(store):
    """One beside the other, one of the other, or mixed; those of others do not count, and a deleted one makes room."""
    await conversation(store, "conv_1", "hi", "hello")
    await conversation(store, "conv_2", "hi", "hello")
    await store.fork_session("ann", "conv_2", new_id="other", now=50)
    for origin, name in (("conv_1", "a"), ("a", "b"), ("b", "c"), ("conv_1", "d")):
        assert (await store.fork_session("ann", origin, new_id=name, now=50, most=4)).root == "conv_1"
    for origin in ("conv_1", "a", "d"):
        with pytest.raises(TooManyForks, match="there are 4 forks of conversation 'conv_1' and of its forks"):
            await store.fork_session("ann", origin, new_id="e", now=50, most=4)
    await store.delete_session("ann", "b")
    await store.delete_session("ann", "conv_1")
    await store.fork_session("ann", "c", new_id="e", now=50, most=4)
    await store.fork_session("ann", "e", new_id="f", now=50)
    with pytest.raises(TooManyForks):
        await store.fork_session("ann", "f", new_id="g", now=50, most=5)
    await store.fork_session("ann", "other", new_id="g", now=50, most=2)


async def test_of_several_at_the_same_moment_no_more_are_made_than_may_be(store):
    await conversation(store, "conv_0", "hi", "hello")
    making = [store.create_session("ann", id=f"conv_{n}", now=50, most=3) for n in range(1, 9)]
    made = await asyncio.gather(*making, return_exceptions=True)
    assert [type(one) for one in made].count(Session) == 2
    forking = [store.fork_session("ann", "conv_0", new_id=f"fork_{n}", now=50, most=3) for n in range(8)]
    forked = await asyncio.gather(*forking, return_exceptions=True)
    assert [type(one) for one in forked].count(Session) == 3
    assert {type(one) for one in made + forked} == {Session, TooManyConversations, TooManyForks}


# -- deletion


async def test_deleting_the_last_session_leaves_no_row(store):
    await conversation(store, "conv_1", "hi", "hello", "how?", "so")
    await store.begin_turn(begin("resp_x", user("?"), session_id="conv_1", parent_hash=(await tip(store, "conv_1"))))
    await store.journal([entry("resp_x", 0, "abc")])
    await store.finish_turn(end("resp_x", "abc", response={"id": "resp_x"}))
    assert await store.delete_session("ann", "conv_1") == DeletedSession(messages=6, turns=3, live_turns=())
    assert set((await count(store)).values()) == {0}


async def test_deleting_a_fork_or_its_origin_keeps_what_the_other_needs(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "so")
    await store.fork_session("ann", "conv_1", new_id="conv_2", at=hashes[1], now=50)
    await store.append_messages("ann", "conv_2", [user("mine")], now=51)
    deleted = await store.delete_session("ann", "conv_1")
    assert (deleted.messages, deleted.turns) == (2, 2)
    assert await texts(store, "conv_2") == ["hi", "hello", "mine"]
    assert (await store.session("ann", "conv_2")).forked_from == "conv_1"
    assert (await store.delete_session("ann", "conv_2")).messages == 3
    assert set((await count(store)).values()) == {0}


async def test_branches_that_the_session_left_are_deleted_with_it(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how?", "so")
    edited = begin("resp_2", user("why?"), session_id="conv_1", parent_hash=hashes[1], expected_tip=hashes[3])
    await store.begin_turn(edited)
    await store.finish_turn(end("resp_2", "because"))
    assert (await store.delete_session("ann", "conv_1")).messages == 6
    assert set((await count(store)).values()) == {0}


async def test_a_branch_left_behind_that_no_turn_made_goes_at_once(store):
    """Nothing could name it any more: not the session, not a turn."""
    await store.create_session("ann", id="conv_1", now=1)
    first, *_, last = await store.append_messages("ann", "conv_1", [user("a"), answer("b"), user("c")], now=2)
    await store.begin_turn(begin("resp_1", user("B"), session_id="conv_1", parent_hash=first, expected_tip=last))
    assert await texts(store, "conv_1") == ["a", "B"]
    assert (await count(store))["messages"] == 2


async def test_a_live_turn_outlives_its_session_and_says_so(store):
    hashes = await conversation(store, "conv_1", "hi", "hello")
    await store.begin_turn(begin("resp_x", user("how?"), session_id="conv_1", parent_hash=hashes[-1]))
    deleted = await store.delete_session("ann", "conv_1")
    assert (deleted.turns, deleted.live_turns, deleted.messages) == (1, ("resp_x",), 0)
    done = await store.finish_turn(end("resp_x", "so"))
    assert done.tip == "no_session"
    assert [m.content[0]["text"] for m in await store.load_chain("ann", done.tip_hash)] == ["hi", "hello", "how?", "so"]
    assert await store.delete_turn("ann", "resp_x") == 4
    assert set((await count(store)).values()) == {0}


async def test_a_deleted_session_is_gone(store):
    await store.create_session("ann", id="conv_1", now=1)
    await store.delete_session("ann", "conv_1")
    with pytest.raises(ConversationNotFound):
        await store.session("ann", "conv_1")
    with pytest.raises(ConversationNotFound):
        await store.delete_session("ann", "conv_1")
