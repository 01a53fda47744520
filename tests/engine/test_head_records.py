"""Records of what conversations consist of: how warm they are, and deletion that reaches the disk."""

import os
import threading

import pytest

from chatpager.engine.disk_tier import DiskTier
from tests.engine.fakes import answer, continuation, make_engine, request, run, step
from tests.engine.tiering import LONG


class TestHeads:
    def test_after_a_restart_it_is_known_how_warm_conversations_are(self, disk):
        assert make_engine(disk=disk()).warm_fraction is None
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        answer(engine, "second", LONG[::-1], owner="t")
        tier = disk()
        assert make_engine(disk=tier).warm_fraction == 1.0
        tier._files.path_of(tier.heads.of("s")[5]).unlink()
        assert disk().warm_fraction == 0.75

    def test_a_record_follows_its_conversation(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        answer(engine, "second", LONG[:8], owner="s")
        tier = disk()
        tier._files.path_of(tier.heads.of("s")[0]).unlink()
        assert disk().warm_fraction == 0.0

    def test_another_models_conversations_are_not_counted(self, disk, tmp_path):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        disk().close()
        other = DiskTier(tmp_path / "kv", 1 << 20, b"m" * 32)
        other.close()
        assert other.warm_fraction is None

    def test_what_is_deleted_leaves_the_disk_but_for_what_others_have(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        answer(engine, "fork", LONG[:20] + LONG[:20], owner="t")
        tier = disk()
        assert len(tier) == 15
        later = make_engine(disk=tier)
        later.sessions.close("s")
        later.sessions.close("s")
        tier.flush()
        assert len(tier) == 10
        assert answer(later, "again", LONG, owner="u").usage.disk_tokens == 20
        later.sessions.close("t")
        later.sessions.close("u")
        tier.flush()
        assert not list(tier.folder.glob("*/*"))

    def test_of_a_tenant_all_leaves_the_disk_whatever_its_conversations_were_called(self, disk):
        """Those that an earlier server had, and one whose record is still on its way; others' stay."""
        engine = make_engine(num_blocks=60, disk=disk())
        answer(engine, "first", LONG, owner="ann\0forgotten")
        answer(engine, "other", LONG[::-1], owner="anna\0s")
        tier, gate = disk(), threading.Event()
        assert len(tier) == 20
        later = make_engine(num_blocks=60, disk=tier)
        with tier._lock:
            tier._jobs.put(gate.wait)
        answer(later, "second", LONG[5:], owner="ann\0s")
        later.sessions.close_all("ann")
        gate.set()
        run(later)
        tier.flush()
        assert len(tier) == len(tier.heads.of("anna\0s")) == 10 and list(later.leases.heads) == []
        [record] = tier.folder.glob("heads/*")
        record.rename(record.with_name("0" * 64 + ".head"))
        assert disk().warm_fraction is None and not list(tier.folder.glob("heads/*")), "of an earlier version"

    def test_what_a_conversation_leaves_behind_leaves_the_disk(self, disk):
        tier = disk()
        engine = make_engine(num_blocks=60, disk=tier)
        answer(engine, "first", LONG, owner="s")
        answer(engine, "rewound", [*LONG[:8], *range(32)], owner="s")
        tier.flush()
        assert len(tier) == 10
        engine.sessions.close("s")
        tier.flush()
        assert not list(tier.folder.glob("*/*"))

    def test_a_turn_that_ended_on_its_way_through_the_prompt_does_not_shorten_the_record(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        tier._files.path_of(tier.heads.of("s")[2]).unlink()
        engine = make_engine(max_tokens=4, disk=tier)
        engine.add(request("second", [*LONG, *range(10)], owner="s"), 0.0)
        step(engine, 2)
        engine.cancel("second")
        run(engine)
        tier.flush()
        assert len(tier.heads.of("s")) == 10
        engine.sessions.close("s")
        tier.flush()
        assert not list(tier.folder.glob("*/*"))

    def test_a_turn_without_prefix_caching_leaves_the_record_alone(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        answer(make_engine(caching=False, disk=tier), "second", LONG, owner="s")
        tier.flush()
        assert len(tier.heads.of("s")) == 10

    def test_of_a_conversation_that_nobody_spoke_in_since_the_start_the_record_tells(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        engine = make_engine(disk=tier)
        found = engine.sessions.cache_of("s", 0.0)
        assert (found.tokens, found.device_tokens, found.disk_tokens, found.leases) == (40, 0, 40, [])
        assert engine.sessions.cache_of("t", 0.0) is None
        assert make_engine().sessions.cache_of("s", 0.0) is None

    @pytest.mark.parametrize("damage", [lambda raw: raw[:10], lambda raw: raw[:-1], lambda raw: raw[:-1] + b"?"])
    def test_a_damaged_record_is_none(self, disk, damage):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        [record] = tier.folder.glob("heads/*")
        record.write_bytes(damage(record.read_bytes()))
        tier = disk()
        assert tier.warm_fraction is None
        make_engine(disk=tier).sessions.close("s")
        tier.flush()
        assert not record.exists()

    def test_the_latest_records_are_kept(self, disk, monkeypatch):
        engine = make_engine(num_blocks=60, disk=disk())
        for i in range(4):
            answer(engine, f"r{i}", LONG[i:], owner=f"s{i}")
        tier = disk()
        records = sorted(tier.folder.glob("heads/*"))
        for i, record in enumerate(records):
            os.utime(record, (1000 + i, 1000 + i))
        monkeypatch.setattr("chatpager.engine.head_records.MAX_RECORDS", 2)
        disk()
        assert sorted(tier.folder.glob("heads/*")) == records[2:]


class TestGoingBack:
    def test_a_record_that_is_on_its_way_does_not_come_after_it(self, disk):
        engine = make_engine(num_blocks=60, disk=disk())
        answer(engine, "first", range(8), owner="s")
        past = [*range(8), *continuation(range(8), 4)]
        tier, gate = engine.tiers.disk, threading.Event()
        tier.flush()
        with tier._lock:
            tier._jobs.put(gate.wait)
        answer(engine, "second", [*past, *range(50, 70)], owner="s")
        engine.sessions.rewind("s", 11)
        gate.set()
        run(engine)
        tier.flush()
        assert len(tier.heads.of("s")) == len(engine.leases.heads["s"].proofs) == 2

    def test_nor_where_no_whole_block_is_left(self, disk):
        """Of a branch the device may know nothing yet."""
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier, gate = disk(), threading.Event()
        engine = make_engine(num_blocks=60, disk=tier)
        with tier._lock:
            tier._jobs.put(gate.wait)
        engine.sessions.fork("s", "branch")
        answer(engine, "second", LONG[::-1], owner="t")
        for owner in ("branch", "t"):
            engine.sessions.rewind(owner, 3)
        gate.set()
        run(engine)
        tier.flush()
        assert len(engine.sessions.records()) == 1 and len(tier) == len(tier.heads.of("s")) == 10

    def test_what_the_device_knows_in_part_is_kept_below_it(self, disk):
        """After a restart only a beginning came back."""
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        engine = make_engine(disk=disk())
        tier = engine.tiers.disk
        before = tier.heads.of("s")
        tier._files.path_of(before[3]).unlink()
        assert engine.prefetch(request("soon", LONG, 1, owner="s"), 0.0) == 12
        assert len(engine.leases.heads["s"].proofs) == 3
        for owner in ("s", "of whom nothing is known"):
            engine.sessions.rewind(owner, 32)
        tier.flush()
        assert tier.heads.of("s") == before[:8] and len(engine.sessions.records()) == 1
