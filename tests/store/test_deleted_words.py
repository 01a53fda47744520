"""What was deleted is in no byte of any file that SQLite keeps, not only in no row."""

import asyncio
import random
import shutil
from concurrent.futures import Future

import pytest

from tests.gate import DEADLINE
from tests.store.making import begin, conversation, end, entry, tip, user

WORD = "Xylophon{}"


def found(path, names):
    """Those of the names whose words stand in a file of the folder."""
    data = b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()) if file.is_file())
    return {name for name in names if WORD.format(name).encode() in data}


def texts_of(name, rng):
    """Short ones, and some that need pages of their own."""
    return [f"{WORD.format(name)} " * rng.choice([1, 3, 40, 900]) + str(i) for i in range(rng.choice([2, 4, 8]))]


@pytest.fixture
def file(sqlite_store):
    return sqlite_store._database.file


async def test_words_of_deleted_conversations_are_in_no_file(sqlite_store, file):
    rng = random.Random(5)
    names = [f"{i:03}z" for i in range(40)]
    for name in names:
        await conversation(sqlite_store, f"conv_{name}", *texts_of(name, rng))
    assert found(file, names) == set(names)
    rng.shuffle(names)
    for i, name in enumerate(names):
        await sqlite_store.delete_session("ann", f"conv_{name}")
        assert found(file, names) == set(names[i + 1 :])


async def test_words_of_deleted_responses_titles_and_journals_are_in_no_file(sqlite_store, file):
    names = ["in", "out", "body", "title", "meta"]
    word = {name: WORD.format(name) for name in names}
    await sqlite_store.create_session("ann", id="conv_1", title=word["title"], metadata={"a": word["meta"]}, now=1)
    await sqlite_store.begin_turn(begin("resp_1", user(word["in"]), session_id="conv_1"))
    await sqlite_store.journal([entry("resp_1", 0, word["out"])])
    await sqlite_store.finish_turn(end("resp_1", word["out"], response={"id": word["body"]}))
    await conversation(sqlite_store, "conv_2", "stays", "here")
    assert found(file, names) == set(names)
    await sqlite_store.delete_session("ann", "conv_1")
    assert found(file, names) == set()
    assert await tip(sqlite_store, "conv_2")


async def test_who_carries_the_log_over_is_waited_for_before_it_is_emptied(sqlite_store, file):
    await conversation(sqlite_store, "conv_1", *[f"{WORD.format('a')} "] * 2)
    carrying = sqlite_store._database._one_visit._carrying = Future()
    deleting = asyncio.ensure_future(sqlite_store.delete_session("ann", "conv_1"))
    done, _ = await asyncio.wait([deleting], timeout=0.2)
    assert not done and found(file, ["a"]) == {"a"}
    carrying.set_result(None)
    await deleting
    assert found(file, ["a"]) == set()


async def test_a_reader_of_the_log_keeps_nobody_waiting_and_the_words_go_when_it_has_left(sqlite_url, open_store):
    sqlite_store = await open_store(sqlite_url, migrate=False, busy_timeout_ms=2000 * int(DEADLINE))
    file = sqlite_store._database.file
    await conversation(sqlite_store, "conv_1", *[f"{WORD.format('a')} "] * 2)
    async with sqlite_store._database.read() as c:
        await c.exec_driver_sql("SELECT count(*) FROM messages")
        async with asyncio.timeout(DEADLINE):
            await sqlite_store.delete_session("ann", "conv_1")
        assert found(file, ["a"]) == {"a"}, "which it may still want to read"
    await sqlite_store.create_session("ann", id="conv_2", now=2)
    assert found(file, ["a"]) == set()


async def test_the_words_go_with_the_first_write_after_a_server_that_died_before_its_log_was_empty(
    sqlite_store, file, open_store, tmp_path
):
    await conversation(sqlite_store, "conv_1", *[f"{WORD.format('a')} "] * 2)
    async with sqlite_store._database.read() as c:
        await c.exec_driver_sql("SELECT count(*) FROM messages")
        await sqlite_store.delete_session("ann", "conv_1")
        (left := tmp_path / "left").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{file}{suffix}", left / f"{file.name}{suffix}")
    reopened = await open_store(f"sqlite+aiosqlite:///{left / file.name}", migrate=False)
    assert found(left / file.name, ["a"]) == {"a"}
    await reopened.create_session("ann", id="conv_2", now=2)
    assert found(left / file.name, ["a"]) == set()


async def test_the_words_go_with_the_next_write_where_a_delete_was_cut_off(sqlite_store, file, monkeypatch):
    await conversation(sqlite_store, "conv_1", *[f"{WORD.format('a')} "] * 2)

    async def cut_off():
        raise asyncio.CancelledError

    with monkeypatch.context() as during:
        during.setattr(sqlite_store._database._visits, "empty_log", cut_off)
        with pytest.raises(asyncio.CancelledError):
            await sqlite_store.delete_session("ann", "conv_1")
    assert found(file, ["a"]) == {"a"}
    await sqlite_store.create_session("ann", id="conv_2", now=2)
    assert found(file, ["a"]) == set()
