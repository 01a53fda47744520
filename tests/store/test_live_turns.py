"""Live turns: a session has one at a time, and what is left without an owner becomes an interrupted answer."""

import pytest
from sqlalchemy import event, insert

from chatpager.errors import (
    StoreError,
)
from chatpager.store import Journaled, Recovered, tables, text_content
from tests.store.making import VOCAB, answer, begin, conversation, count, end, entry, tip, user


@pytest.fixture
async def session(store):
    return await store.create_session("ann", id="conv_1", now=1)


async def test_the_database_itself_refuses_a_second_live_turn(store, session):
    begun = await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    twin = {c.name: getattr(begun.turn, c.name) for c in tables.turns.columns} | {"id": "resp_2"}
    with pytest.raises(StoreError, match="rules"):
        async with store._database.write("test") as c:
            await c.execute(insert(tables.turns).values(twin))
    await store.finish_turn(end("resp_1", "hello"))
    async with store._database.write("test") as c:
        await c.execute(insert(tables.turns).values(twin))


async def test_what_is_asked_of_live_turns_does_not_walk_the_others(open_store, sqlite_url):
    """On SQLite a partial index serves only a condition that is in the statement, not in its parameters."""
    store = await open_store(sqlite_url, migrate=False)
    seen = []
    engine = store._database._visits._engine
    event.listen(
        engine, "before_cursor_execute", lambda c, cursor, sql, params, context, many: seen.append((sql, params))
    )
    await store.create_session("ann", id="conv_1", now=1)
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    await store.active_turns("ann")
    await store.recover(now=5)
    await store.append_messages("ann", "conv_1", [user("more")], now=6)
    plans = {}
    async with store._database.read() as c:
        for sql, params in list(seen):
            if "'in_progress'" in sql and "FROM turns" in sql and sql.startswith("SELECT"):
                rows = (await c.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", params)).all()
                plans[sql] = " | ".join(row[3] for row in rows if " turns" in row[3])
    assert len(plans) == 3, plans
    assert all("ix_turns_live" in plan for plan in plans.values()), plans


# -- recovery


async def test_recovery_makes_an_answer_of_what_was_journalled(store, session):
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    await store.journal([entry("resp_1", 0, "hel")])
    await store.journal([entry("resp_1", 3, "lo")])
    (done,) = await store.recover(now=50)
    assert done == Recovered(
        turn_id="resp_1", tenant="ann", session_id="conv_1", tip_hash=done.tip_hash, tip="moved", tokens=5
    )
    last = (await store.load_chain("ann", await tip(store, "conv_1")))[-1]
    assert (last.hash, last.role, last.status, last.vocab) == (done.tip_hash, "assistant", "interrupted", VOCAB)
    assert (last.content, last.token_ids) == (answer("hello").content, tuple(b"hello"))
    turn = await store.turn("ann", "resp_1")
    assert (turn.status, turn.tip_hash, turn.completed_at) == ("interrupted", done.tip_hash, 50)
    assert await store.recover(now=51) == []
    assert (await count(store))["turn_journal"] == 0


async def test_recovery_takes_an_answers_content_from_who_can_read_it(store, session):
    called = {"type": "tool_call", "id": "call_1_1", "name": "f", "arguments": "{"}
    await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    await store.begin_turn(begin("resp_2", user("hi")))
    await store.journal([entry("resp_1", 0, "hel")])
    asked = []

    def content(turn, kept):
        asked.append((turn.id, kept))
        return [*text_content(kept.text), called]

    await store.recover(50, content=content)
    assert asked == [("resp_1", Journaled(token_ids=tuple(b"hel"), text="hel"))], "there is no answer of the other"
    last = (await store.load_chain("ann", await tip(store, "conv_1")))[-1]
    assert (last.content, last.token_ids) == ([*text_content("hel"), called], tuple(b"hel"))


async def test_recovery_of_a_turn_without_a_token_leaves_the_session_at_its_input(store, session):
    begun = await store.begin_turn(begin("resp_1", user("hi"), session_id="conv_1"))
    (done,) = await store.recover(now=50)
    assert (done.tip_hash, done.tokens, done.tip) == (None, 0, "moved")
    assert (await store.turn("ann", "resp_1")).status == "interrupted"
    assert await tip(store, "conv_1") == begun.messages[-1]


async def test_recovery_ends_the_turns_of_every_tenant_oldest_first_and_no_other(store):
    await conversation(store, "conv_9", "hi", "hello")
    await store.begin_turn(begin("resp_b", user("hi"), tenant="bob", now=12))
    await store.begin_turn(begin("resp_a", user("hi"), now=11))
    before = await store.turn("ann", "resp_conv_9_0")
    assert [done.turn_id for done in await store.recover(now=50)] == ["resp_a", "resp_b"]
    assert await store.turn("ann", "resp_conv_9_0") == before


async def test_recovery_takes_the_journal_up_to_its_first_gap(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.journal([entry("resp_1", 0, "hel"), entry("resp_1", 4, "o")])
    (done,) = await store.recover(now=50)
    assert done.tokens == 3


async def test_recovery_of_some_leaves_the_others_running(store, session):
    await conversation(store, "conv_9", "hi", "hello")
    for n in (1, 2):
        await store.begin_turn(begin(f"resp_{n}", user("hi"), now=n))
    await store.journal([entry("resp_1", 0, "so"), entry("resp_2", 0, "far")])
    done = await store.recover(50, ["resp_1", "resp_conv_9_0", "resp_none"])
    assert [(d.turn_id, d.tokens) for d in done] == [("resp_1", 2)]
    assert [turn.id for turn in await store.active_turns("ann")] == ["resp_2"]
    assert (await store.journaled("ann", "resp_2")).text == "far"
    assert await store.recover(51, []) == []
