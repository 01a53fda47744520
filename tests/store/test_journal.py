import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from functools import reduce

import pytest
from sqlalchemy import func, insert, select

from chatpager.errors import ResponseNotFound, StoreError
from chatpager.store import JournalEntry, journal, one_visit, tables
from chatpager.store.step_log import STEPS_BEHIND, StepLog
from tests.store.making import begin, conversation, end, entry, user


async def journal_rows(store):
    async with store._database.read() as c:
        return (await c.execute(select(func.count()).select_from(tables.turn_journal))).scalar()


async def kept(store):
    """How many rows each turn has, and how many steps there are."""
    async with store._database.read() as c:
        counts = Counter(await c.scalars(select(tables.turn_journal.c.turn_id)))
    return counts, counts.pop(tables.STEP, 0)


async def test_the_journal_holds_the_tokens_of_many_turns_in_order(store):
    for n in range(3):
        await store.begin_turn(begin(f"resp_{n}", user("hi")))
    for step in range(4):
        await store.journal([entry(f"resp_{n}", 2 * step, f"{n}{step}") for n in range(3)])
    held = await store.journaled("ann", "resp_1")
    assert (held.text, held.token_ids) == ("10111213", tuple(b"10111213"))


async def test_any_text_and_any_id_can_be_journalled(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.journal(
        [JournalEntry(turn_id="resp_1", first_index=0, token_ids=[0, 2**32 - 1], text="\0 你好 \N{GRINNING FACE}")]
    )
    await store.journal([JournalEntry(turn_id="resp_1", first_index=2, token_ids=[7], text="")])
    held = await store.journaled("ann", "resp_1")
    assert (held.token_ids, held.text) == ((0, 2**32 - 1, 7), "\0 你好 \N{GRINNING FACE}")
    (done,) = await store.recover(now=9)
    assert (await store.load_chain("ann", done.tip_hash))[-1].content[0]["text"] == held.text


async def test_a_turn_that_ended_or_never_was_does_not_fail_its_neighbours(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.begin_turn(begin("resp_2", user("hi")))
    await store.finish_turn(end("resp_2", "hello"))
    refused = await store.journal([entry("resp_0", 0, "a"), entry("resp_2", 0, "b"), entry("resp_1", 0, "c")])
    assert refused == {"resp_0", "resp_2"}
    assert (await store.journaled("ann", "resp_1")).text == "c"
    assert (await store.journaled("ann", "resp_2")).text == ""
    assert await journal_rows(store) == 1


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 300])
async def test_a_step_of_many_turns_is_written_whole_but_for_those_that_ended(store, count):
    """Whatever the number is: it is written in portions."""
    for n in range(count):
        await store.begin_turn(begin(f"resp_{n}", user("hi")))
    ended = {f"resp_{n}" for n in range(0, count, 5)}
    for name in ended:
        await store.finish_turn(end(name, "hello"))
    assert await store.journal([entry(f"resp_{n}", 0, f"<{n}>") for n in range(count)]) == ended
    assert await journal_rows(store) == (min(1, count - len(ended)) if store._database.file else count - len(ended))
    for n in range(count):
        assert (await store.journaled("ann", f"resp_{n}")).text == ("" if f"resp_{n}" in ended else f"<{n}>")


async def test_what_lay_in_steps_comes_into_rows_of_its_turns(sqlite_store, sqlite_url, open_store):
    """Of some turns at each step; then a step's row goes. One that has ended in between gets none."""
    store, count = sqlite_store, 80
    for n in range(count):
        await store.begin_turn(begin(f"resp_{n}", user("hi")))
    for step in range(3 * STEPS_BEHIND):
        await store.journal([entry(f"resp_{n}", step, chr(97 + step % 26)) for n in range(count) if n or step < 5])
        if step == 40:
            await store.finish_turn(end("resp_7", "hello"))
    said = "".join(chr(97 + step % 26) for step in range(3 * STEPS_BEHIND))
    rows, steps = await kept(store)
    assert steps <= STEPS_BEHIND + 1 and "resp_7" not in rows and 2 <= rows["resp_1"] <= 4
    for n in (1, 50, 79):
        assert (await store.journaled("ann", f"resp_{n}")).text == said
    assert (await store.journaled("ann", "resp_0")).text == said[:5]
    other = await open_store(sqlite_url, migrate=False)  # a new server, of which the first knows nothing
    await other.begin_turn(begin("resp_new", user("hi")))
    await other.journal([entry("resp_new", 0, "!")])
    await store.journal([entry("resp_2", 3 * STEPS_BEHIND, "?")])
    assert (await store.journaled("ann", "resp_new")).text == "!"
    ends = {done.turn_id: done.tokens for done in await other.recover(now=9)}
    assert len(ends) == count and ends["resp_2"] == len(said) + 1 and ends["resp_0"] == 5
    assert await journal_rows(store) == 0


async def test_a_turn_that_ended_without_another_token_is_not_kept_in_mind(sqlite_store):
    for name in ("resp_0", "resp_1"):
        await sqlite_store.begin_turn(begin(name, user("hi")))
    await sqlite_store.journal([entry("resp_1", 0, "a")])
    for step in range(2 * STEPS_BEHIND):
        await sqlite_store.journal([entry("resp_0", step, "a")])
    await sqlite_store.finish_turn(end("resp_1", "a"))
    await sqlite_store.journal([entry("resp_0", 2 * STEPS_BEHIND, "a")])
    assert set(sqlite_store._steps._next) == {"resp_0"}


async def test_a_step_in_the_place_of_another_is_refused_and_not_lost(sqlite_store):
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    await sqlite_store.journal([entry("resp_1", 0, "a")])
    sqlite_store._steps._number -= 1
    with pytest.raises(StoreError):
        await sqlite_store.journal([entry("resp_1", 1, "b")])


async def test_no_server_forgets_the_steps_of_another(sqlite_store, sqlite_url, open_store):
    """Which lie between its own: they write in turn."""
    stores = [sqlite_store, await open_store(sqlite_url, migrate=False)]
    for n, store in enumerate(stores):
        await store.begin_turn(begin(f"resp_{n}", user("hi")))
    for step in range(2 * STEPS_BEHIND):
        for n, store in enumerate(stores):
            await store.journal([entry(f"resp_{n}", step, "a")])
    assert [len((await sqlite_store.journaled("ann", f"resp_{n}")).text) for n in range(2)] == [2 * STEPS_BEHIND] * 2


async def test_a_last_text_without_a_token_is_told_once_wherever_it_lies(store):
    """In a step, in a row of its turn, and for a while in both; an entry written again changes nothing here either."""
    for name in ("resp_1", "resp_2"):
        await store.begin_turn(begin(name, user("hi")))
    last = JournalEntry(turn_id="resp_1", first_index=3, token_ids=[], text="!")
    await store.journal([entry("resp_1", 0, "abc"), entry("resp_2", 0, "a")])
    for index in range(1, 2 * STEPS_BEHIND):
        await store.journal([last, entry("resp_2", index, "a")] if index < 3 else [entry("resp_2", index, "a")])
        assert (await store.journaled("ann", "resp_1")).text == "abc!", index
    assert (await store.journaled("ann", "resp_2")).text == "a" * 2 * STEPS_BEHIND


async def test_few_turns_wait_as_long_for_rows_of_their_own(sqlite_store):
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    for step in range(4 * STEPS_BEHIND):
        await sqlite_store.journal([entry("resp_1", step, "a")])
    rows, steps = await kept(sqlite_store)
    assert 3 <= rows["resp_1"] <= 4 and steps <= STEPS_BEHIND + 1


async def test_a_deleted_turn_leaves_nothing_in_the_steps_that_it_shares(sqlite_store):
    for name in ("resp_1", "resp_2"):
        await sqlite_store.begin_turn(begin(name, user("hi")))
        await sqlite_store.journal([entry("resp_1", 0, "secret"), entry(name, 9, "kept")])
    await sqlite_store.finish_turn(end("resp_1", "secret"))
    async with sqlite_store._database.read() as c:
        assert b"secret" in b"".join(await c.scalars(select(tables.turn_journal.c.token_ids)))
    await sqlite_store.delete_turn("ann", "resp_1")
    async with sqlite_store._database.read() as c:
        left = b"".join(await c.scalars(select(tables.turn_journal.c.token_ids)))
    assert b"secret" not in left and b"kept" in left


async def test_a_deleted_conversation_takes_no_step_of_a_turn_without_one(store, url, open_store):
    """Which runs, of another tenant: a crash right after that loses nothing of it."""
    await conversation(store, "conv_b", "hi", "hello", tenant="bob")
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.journal([entry("resp_1", 0, "shown")])
    await store.delete_session("bob", "conv_b")
    other = await open_store(url, migrate=False)
    assert [(done.turn_id, done.tokens) for done in await other.recover(now=9)] == [("resp_1", 5)]


async def test_entries_of_one_turn_may_be_written_as_one(store):
    entries = [entry("resp_1", 0, "ab"), entry("resp_1", 2, ""), entry("resp_1", 2, "c"), entry("resp_1", 3, "de")]
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.journal([reduce(JournalEntry.then, entries)])
    held = await store.journaled("ann", "resp_1")
    assert (held.text, held.token_ids) == ("abcde", tuple(b"abcde"))
    assert await journal_rows(store) == 1


async def test_an_entry_written_again_changes_nothing(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    for text in ("abc", "xyz"):
        await store.journal([entry("resp_1", 0, text)])
    assert (await store.journaled("ann", "resp_1")).text == "abc"


async def test_a_step_without_tokens_is_no_step(store):
    assert await store.journal([]) == set()
    assert await journal_rows(store) == 0


async def test_the_journal_of_another_tenants_turn_is_unknown(store):
    await store.begin_turn(begin("resp_1", user("hi"), tenant="bob"))
    with pytest.raises(ResponseNotFound):
        await store.journaled("ann", "resp_1")


async def test_a_turn_is_not_ended_without_the_tokens_that_are_being_written(store, url, open_store):
    """By a server that took the claim over: what it does not see would be shown, and not be stored."""
    await store.begin_turn(begin("resp_1", user("hi")))
    other = await open_store(url, migrate=False)
    async with store._database.write("test") as c:
        await journal.write(c, [entry("resp_1", 0, "hello")], store.owner)
        recovering = asyncio.ensure_future(other.recover(now=9))
        done, _ = await asyncio.wait([recovering], timeout=0.2)
        assert not done
    assert [turn.tokens for turn in await recovering] == [5]


async def test_what_came_too_late_is_forgotten_at_the_next_start(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.finish_turn(end("resp_1", "hello"))
    async with store._database.write("test") as c:
        late = {"turn_id": "resp_1", "first_index": 0, "token_ids": b"", "text": b""}
        await c.execute(insert(tables.turn_journal).values(late))
    await store.recover(now=9)
    assert await journal_rows(store) == 0


async def test_a_full_disk_is_said_and_the_steps_after_it_are_written(sqlite_store):
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    await sqlite_store.journal([entry("resp_1", 0, "a")])
    visiting = sqlite_store._database._one_visit

    def limited(pages):
        return visiting.write("test", lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone()[0])

    room = await limited(1)
    with pytest.raises(StoreError, match="is full"):
        await sqlite_store.journal([entry("resp_1", 1, "x" * 100_000)])
    await limited(room + 1000)
    await sqlite_store.journal([entry("resp_1", 1, "x" * 100_000)])
    assert (await sqlite_store.journaled("ann", "resp_1")).text == "a" + "x" * 100_000


async def test_the_log_is_carried_to_the_database_beside_the_journal(sqlite_store, monkeypatch, tmp_path):
    """What the database's file has without its log, as it lies there."""
    monkeypatch.setattr(one_visit, "LOG_ROWS", 8)
    database = sqlite_store._database
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    for index in range(8):
        assert database._one_visit._carrying is None
        await sqlite_store.journal([entry("resp_1", index, "a")])
    await asyncio.wrap_future(database._one_visit._carrying)
    alone = tmp_path / "without-its-log.db"
    alone.write_bytes(database.file.read_bytes())
    with closing(sqlite3.connect(alone)) as c:
        assert c.execute("SELECT count(*) FROM turn_journal").fetchone() == (8,)


async def test_a_disk_that_failed_under_the_journal_is_not_trusted_again(sqlite_store, monkeypatch):
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE

    def fails(*_):
        raise failed

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "write", fails)
        with pytest.raises(StoreError, match="disk failed"):
            await sqlite_store.journal([entry("resp_1", 0, "a")])
    with pytest.raises(StoreError, match="lost a write"):
        await sqlite_store.journal([entry("resp_1", 0, "a")])


async def test_a_journal_that_was_given_up_on_is_written_or_not_and_the_next_one_is(sqlite_store):
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    for index in range(40):
        task = asyncio.ensure_future(sqlite_store.journal([entry("resp_1", index, "a")]))
        for _ in range(index % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await sqlite_store.journal([entry("resp_1", index, "a")])
    assert (await sqlite_store.journaled("ann", "resp_1")).text == "a" * 40


async def test_other_writes_and_the_journal_take_turns(sqlite_url, open_store):
    """In the queue: SQLite itself would not let one wait for another."""
    sqlite_store = await open_store(sqlite_url, migrate=False, busy_timeout_ms=0)
    await sqlite_store.begin_turn(begin("resp_1", user("hi")))
    async with asyncio.TaskGroup() as group:
        for index in range(30):
            group.create_task(sqlite_store.journal([entry("resp_1", index, "a")]))
            group.create_task(sqlite_store.create_session("ann", id=f"conv_{index}", now=1))
    assert (await sqlite_store.journaled("ann", "resp_1")).text == "a" * 30


async def test_a_closed_store_journals_nothing(store):
    await store.begin_turn(begin("resp_1", user("hi")))
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.journal([entry("resp_1", 0, "a")])
