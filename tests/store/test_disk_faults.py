"""SQLite on a disk that has no room left, and on one that fails at a sync."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from chatpager.errors import StorageFull, StoreError
from chatpager.store import AuditEntry, Store
from tests.processes import ROOT
from tests.store.making import begin, end, entry, texts, tip, user


async def until_it_is_full(doing):
    """What was done before that."""
    done = []
    with pytest.raises(StoreError, match="is full"):
        await doing(done)
    return done


@pytest.mark.parametrize("small_disk", [2048], indirect=True)
async def test_a_file_system_without_room_takes_nothing_and_what_it_took_stays(sqlite_url, small_disk, open_store):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(512 << 10))
    file = shutil.copy(sqlite_url.removeprefix("sqlite+aiosqlite:///"), small_disk)
    store = await open_store(f"sqlite:///{file}", migrate=False)
    await store.create_session("ann", id="conv_1", now=1)
    await store.begin_turn(begin("resp_1", user("hi")))

    async def say(done):
        for n in range(1000):
            await store.append_messages("ann", "conv_1", [user(f"{n} " + "x" * 20_000)], now=n)
            done.append(str(n))

    async def journal(done):
        for n in range(1000):
            await store.journal([entry("resp_1", 10_000 * n, "x" * 10_000)])

    kept = await until_it_is_full(say)
    await until_it_is_full(journal)
    assert len(await texts(store, "conv_1")) == len(kept) > 5, "reading goes on"
    with pytest.raises(StorageFull, match="is full"):
        await store.delete_session("ann", "conv_1")
    ballast.unlink()
    assert (await store.finish_turn(end("resp_1", "hello"))).status == "completed"
    await store.append_messages("ann", "conv_1", [user("again")], now=2000)
    assert [said.split()[0] for said in await texts(store, "conv_1")] == [*kept, "again"]
    async with store._database.read() as c:
        assert (await c.execute(text("PRAGMA integrity_check"))).scalar() == "ok"
    await store.close()


@pytest.mark.parametrize("small_disk", [4096], indirect=True)
async def test_from_a_full_disk_conversations_can_be_deleted_and_then_others_go_on(sqlite_url, small_disk, open_store):
    file = Path(shutil.copy(sqlite_url.removeprefix("sqlite+aiosqlite:///"), small_disk))
    store = await open_store(f"sqlite:///{file}", migrate=False)
    for name in ("conv_1", "conv_2", "conv_3"):
        await store.create_session("ann", id=name, now=1)
        for n in range(3):
            await store.append_messages("ann", name, [user(f"{n} " + "x" * 5000)], now=n)
    await store.delete_session("ann", "conv_3")
    await store.keep_reserve()
    reserve, ballast = file.with_name(file.name + "-reserve"), small_disk / "ballast"
    assert reserve.stat().st_size > 256 << 10
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))

    async def say(done):
        for n in range(1000):
            await store.append_messages("ann", "conv_2", [user(f"{n} " + "x" * 20_000)], now=n)

    await until_it_is_full(say)
    another = begin("resp_1", user("x" * 20_000), session_id="conv_2", expected_tip=await tip(store, "conv_2"))
    with pytest.raises(StorageFull):
        await store.begin_turn(another)
    assert reserve.exists(), "a turn that leaves a branch is no deletion"
    done = AuditEntry(at=1, key="k", tenant="ann", action="conversation.deleted", target="conv_1", address="")
    await store.audit.add(done)
    await store.delete_session("ann", "conv_1")
    assert not reserve.exists()
    await store.append_messages("ann", "conv_2", [user("again")], now=2000)
    assert (await texts(store, "conv_2"))[-1] == "again"
    rest = small_disk / "rest"
    rest.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    await store.keep_reserve()
    assert not reserve.exists(), "there is no room for one"
    os.truncate(ballast, ballast.stat().st_size - (1 << 20))
    await store.keep_reserve()
    small = reserve.stat().st_size
    ballast.unlink()
    await store.keep_reserve()
    assert 64 << 10 < small < reserve.stat().st_size, "it grows with the room"
    await store.close()


def test_where_a_sync_failed_nothing_more_is_acknowledged(sqlite_url):
    """In a process of its own, whose system calls a filter of the kernel answers from some moment on."""
    command = [sys.executable, "-m", "tests.store.without_sync", sqlite_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"NOT TESTED: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "disk failed" in told["at the sync"]
    assert all("lost a write when its disk failed" in said for said in (told["after it"], told["its tokens"]))
    assert told["unusable"].startswith("lost a write")
    asyncio.run(what_was_acknowledged_is_there(sqlite_url))


async def what_was_acknowledged_is_there(url):
    store = await Store.open(url, migrate=False)
    session = await store.session("ann", "conv_1")
    assert await store.verify("ann", session.tip_hash) == []
    assert [turn.turn_id for turn in await store.recover(9)] == ["resp_1"]
    await store.close()
