"""Blocks that leave the device and come back: from host memory, from disk, and never wrong."""

import os
import shutil
import threading

import pytest

from chatpager.config import EngineConfig
from chatpager.engine import disk_tier
from chatpager.engine.disk_tier import HEADER, DiskTier
from chatpager.engine.heads import Strength
from chatpager.engine.messages import LeaseRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.tiers import Source, Tiers, open_tiers
from chatpager.errors import ConfigError
from tests.engine.fakes import FakeRunner, answer, continuation, make_engine, request, run, step

LONG = list(range(100, 140))
"""Ten blocks."""


@pytest.fixture
def disk(tmp_path):
    """Opens the disk tier of a folder again and again, as servers do one after the other."""
    opened = []

    def open_disk(capacity=1 << 20):
        for tier in opened:
            tier.close()
        opened[:] = [DiskTier(tmp_path / "kv", capacity)]
        return opened[0]

    yield open_disk
    for tier in opened:
        tier.close()


def flood(engine, count=6, name="flood"):
    """Other sessions push everything out that nobody holds."""
    for i in range(count):
        start = 300 + 50 * i
        answer(engine, f"{name}{i}", range(start, start + 40), 1, owner=f"{name}{i}")


def sources(final):
    usage = final.usage
    return usage.cached_tokens - usage.host_tokens - usage.disk_tokens, usage.host_tokens, usage.disk_tokens


class TestHost:
    def test_what_a_session_loses_on_the_device_comes_back_from_host_memory(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        again = answer(engine, "again", LONG, owner="s")
        device, host, disk = sources(again)
        assert (device + host, disk) == (36, 0)
        assert host > 0
        assert again.usage.computed_tokens == 4
        assert again.usage.lost is None
        assert engine.stats().host_hit_tokens == host

    def test_without_a_host_tier_it_is_computed_again(self):
        engine = make_engine(num_blocks=20)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        assert answer(engine, "again", LONG, owner="s").usage.computed_tokens > 20

    def test_what_nobody_wanted_is_dropped(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG)
        flood(engine)
        assert answer(engine, "again", LONG).usage.cached_tokens == 0

    def test_it_keeps_no_more_than_its_capacity_and_forgets_a_conversations_end_first(self):
        engine = make_engine(num_blocks=17, host_blocks=2)
        answer(engine, "first", LONG, owner="s")
        flood(engine, 1)
        assert len(engine.tiers.host) == 2
        assert sources(answer(engine, "again", LONG, owner="s")) == (24, 8, 0)

    def test_a_block_is_on_one_tier_at_a_time(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        assert answer(engine, "again", LONG, owner="s").usage.host_tokens == 36
        assert not [b for b in engine.pool.index.values() if b.proof in engine.tiers.host]

    def test_names_that_collide_bring_nothing_back(self):
        engine = make_engine(num_blocks=20, host_blocks=64, hash_bits=2)
        for i in range(12):
            answer(engine, f"a{i}", [i, *LONG[1:]], owner=f"s{i % 3}")

    def test_tenants_do_not_share(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s", salt=b"one")
        flood(engine)
        assert answer(engine, "theirs", LONG, owner="t", salt=b"two").usage.cached_tokens == 0
        assert answer(engine, "again", LONG, owner="s", salt=b"one").usage.host_tokens == 36

    def test_poisoned_blocks_do_not_come_back_from_any_tier(self, disk):
        tier = disk()
        engine = make_engine(num_blocks=20, host_blocks=64, disk=tier)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        engine.runner.nan_for.add("again")
        engine.add(request("again", LONG, owner="s"), 0.0)
        run(engine)
        tier.flush()
        hasher = engine._intake.hasher(b"")
        first = hasher.prove(hasher.proof, LONG[:4])
        assert first not in engine.tiers
        assert answer(make_engine(disk=disk()), "third", LONG, owner="s").usage.cached_tokens == 0

    @pytest.mark.parametrize("source", ["host", "disk"])
    def test_all_samples_of_a_request_tell_where_the_prompt_came_from(self, disk, source):
        engine = make_engine(num_blocks=30, host_blocks=64 if source == "host" else 0, disk=disk())
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        engine.add(request("two", LONG, n=2), 0.0)
        _, finals = run(engine)
        for index in (0, 1):
            usage = finals["two", index].usage
            assert usage.cached_tokens == 36
            assert getattr(usage, f"{source}_tokens") == 36

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_a_restore_that_is_broken_off_leaves_everything_where_it_was(self, error):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        whole = engine.runner.write_blocks

        def broken(ids, contents):
            engine.runner.write_blocks = whole
            raise error

        engine.runner.write_blocks = broken
        engine.add(request("again", LONG, owner="s"), 0.0)
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                step(engine)
            engine.audit()
            assert engine.scheduler.waiting
        tokens, finals = run(engine)
        assert tokens["again"][0] == continuation(LONG, 4)
        assert finals["again", 0].usage.host_tokens == (36 if error is KeyboardInterrupt else 0)
        if error is RuntimeError:
            flood(engine, name="more")
            assert answer(engine, "third", LONG, owner="s").usage.host_tokens == 36

    def test_a_restore_that_is_rolled_back_is_worth_something(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        engine.add(request("again", LONG), 0.0)
        seq = engine.scheduler.waiting[0]
        match = engine.cache.match(seq)
        engine.cache.restore(seq, match)
        match.rollback()
        engine.cancel("again")
        flood(engine, name="more")
        assert answer(engine, "third", LONG).usage.host_tokens == 36

    def test_one_allocation_copies_no_more_than_the_tier_holds(self, monkeypatch):
        monkeypatch.setattr("chatpager.engine.tiers.COPIED_TOGETHER", 3)
        engine = make_engine(num_blocks=20, host_blocks=5, max_tokens=64)
        copied = []
        whole = engine.runner.read_blocks
        engine.runner.read_blocks = lambda ids: copied.append(len(ids)) or whole(ids)
        answer(engine, "first", LONG, owner="s")
        answer(engine, "other", range(300, 356), 1, owner="t")
        assert copied == [3, 2]

    def test_a_reset_empties_it(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        engine.cache.reset()
        assert len(engine.tiers.host) == 0

    def test_a_copy_that_fails_is_a_miss(self, caplog):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine)

        def broken(ids, contents):
            raise RuntimeError("no copy")

        engine.runner.write_blocks = broken
        assert answer(engine, "again", LONG, owner="s").usage.cached_tokens == 0
        assert engine.cache.stats.failed_restores == 1
        assert "not restored" in caplog.text

    def test_a_copy_that_fails_on_the_way_down_loses_warmth_only(self, disk, caplog):
        engine = make_engine(num_blocks=20, host_blocks=64, disk=disk())

        def broken(ids):
            raise RuntimeError("no copy")

        engine.runner.read_blocks = broken
        answer(engine, "first", LONG, owner="s")
        flood(engine)
        assert answer(engine, "again", LONG, owner="s").usage.cached_tokens == 0
        assert engine.tiers.stats.failed_copies > 1
        assert "not copied" in caplog.text


class TestDisk:
    def test_a_session_is_warm_after_a_restart(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        again = answer(make_engine(disk=disk()), "again", LONG, owner="s")
        assert sources(again) == (0, 0, 36)
        assert again.usage.computed_tokens == 4

    def test_what_belongs_to_no_session_is_not_written(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG)
        assert len(disk()) == 0

    def test_what_the_device_has_is_not_read(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        assert sources(answer(engine, "again", LONG, owner="s")) == (36, 0, 0)

    def test_another_model_finds_nothing(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        other = make_engine(disk=disk())
        other.runner.hash_domain = lambda: [("model", "another")]
        assert answer(other, "again", LONG, owner="s").usage.cached_tokens == 0

    @pytest.mark.parametrize("place", [0, 20, HEADER.size - 1, HEADER.size, -1])
    def test_a_flipped_bit_is_a_miss(self, disk, place):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        tier = disk()
        for path in tier.folder.glob("*/*.kv"):
            raw = bytearray(path.read_bytes())
            raw[place] ^= 1
            path.write_bytes(raw)
        later = make_engine(disk=tier)
        assert answer(later, "again", LONG, owner="s").usage.cached_tokens == 0
        assert tier.bad_files == 1
        assert sources(answer(make_engine(disk=disk()), "third", LONG, owner="s"))[2] == 4

    @pytest.mark.parametrize("damage", ["short", "empty", "longer", "swapped", "gone"])
    def test_a_damaged_file_is_a_miss_from_there_on(self, disk, damage):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        tier = disk()
        third = tier._path(list(tier._files)[2])
        raw = third.read_bytes()
        if damage == "gone":
            third.unlink()
        else:
            other = tier._path(list(tier._files)[5]).read_bytes()
            third.write_bytes({"short": raw[:-1], "empty": b"", "longer": raw + b"\0", "swapped": other}[damage])
        found = answer(make_engine(disk=tier), "again", LONG, owner="s")
        assert found.usage.disk_tokens == 8
        assert tier.bad_files == 1
        assert damage == "gone" or not third.exists() or len(third.read_bytes()) == len(raw)

    def test_the_oldest_files_go_when_there_are_too_many(self, disk):
        size = HEADER.size + FakeRunner(block_size=4).block_bytes
        tier = disk(capacity=5 * size)
        engine = make_engine(num_blocks=20, disk=tier)
        answer(engine, "first", LONG, owner="s")
        tier.flush()
        assert (len(tier), tier.used) == (5, 5 * size)
        assert len(list(tier.folder.glob("*/*.kv"))) == 5

    def test_a_disk_that_takes_nothing_does_not_stop_the_chat(self, disk, caplog):
        tier = disk()
        shutil.rmtree(tier.folder)
        tier.folder.write_text("not a folder")
        engine = make_engine(num_blocks=20, disk=tier)
        answer(engine, "first", LONG, owner="s")
        tier.flush()
        assert tier.failed_writes > 0
        assert "cannot be written to disk" in caplog.text
        assert answer(engine, "again", LONG, owner="s").usage.disk_tokens == 0
        tier.folder.unlink()

    def test_a_folder_that_was_deleted_is_made_again(self, disk):
        tier = disk()
        shutil.rmtree(tier.folder)
        answer(make_engine(disk=tier), "first", LONG, owner="s")
        assert answer(make_engine(disk=disk()), "again", LONG, owner="s").usage.disk_tokens == 36

    def test_half_a_file_of_a_crash_is_swept_up(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        folder = disk().folder
        part = next(folder.glob("*/*.kv")).with_suffix(".part")
        part.write_bytes(b"half")
        (folder / "ab").mkdir(exist_ok=True)
        (folder / "ab" / "notes.kv").write_text("somebody else's")
        assert len(disk()) == 10
        assert not part.exists()
        assert (folder / "ab" / "notes.kv").exists()

    def test_only_the_owner_can_read_the_files(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        path = next(tier.folder.glob("*/*.kv"))
        modes = [p.stat().st_mode & 0o777 for p in (tier.folder, path.parent, path)]
        assert modes == [0o700, 0o700, 0o600]

    def test_the_order_of_use_outlives_the_process(self, disk):
        engine = make_engine(num_blocks=40, disk=disk())
        answer(engine, "first", LONG, owner="s")
        tier = disk()
        for i, proof in enumerate(list(tier._files)):
            os.utime(tier._path(proof), (1000 + i, 1000 + i))
        first = list(disk()._files)
        tier = disk()
        assert tier.find(first[0])
        assert list(disk()._files) == [*first[1:], first[0]]

    def test_what_is_slower_to_read_than_to_compute_is_left_there_until_it_is_worth_a_try(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        later = make_engine(disk=disk())
        later.tiers.read_seconds.add(1.0)
        later.tiers.compute_seconds.add(0.5)
        assert answer(later, "again", LONG, owner="t").usage.disk_tokens == 0
        assert later.tiers.stats.passed_over == 1
        while later.tiers._is_slower_than_computing():
            pass
        assert later.tiers.read_seconds.seconds <= 0.5

    def test_a_few_blocks_are_saved_a_step_while_others_wait_for_theirs(self, disk, monkeypatch):
        monkeypatch.setattr("chatpager.engine.tiers.BLOCKS_PER_STEP", 3)
        tier = disk()
        engine = make_engine(disk=tier)
        answer(engine, "first", LONG, owner="s")
        engine.add(request("second", LONG[::-1], 3, owner="t"), 0.0)
        while "second" in engine._requests:
            step(engine)
        for left in (7, 4, 1, 0):
            assert len(engine.tiers._unsaved) == left
            assert engine.has_work == bool(left)
            step(engine)
        tier.flush()
        assert len(tier) == 20

    def test_where_the_disk_is_behind_blocks_wait_in_the_cache(self, disk, monkeypatch):
        gate = threading.Event()
        write = DiskTier._write
        monkeypatch.setattr("chatpager.engine.disk_tier.MAX_WAITING", 3 * 32)
        monkeypatch.setattr("chatpager.engine.tiers.BLOCKS_PER_STEP", 1)
        monkeypatch.setattr(DiskTier, "_write", lambda self, proof: gate.wait() and write(self, proof))
        tier = disk()
        engine = make_engine(disk=tier)
        engine.add(request("first", LONG, owner="s"), 0.0)
        step(engine, 30)
        assert len(engine.tiers._unsaved) == 7
        gate.set()
        engine.close()
        assert len(tier) == 10

    def test_what_was_evicted_or_deleted_meanwhile_is_not_saved(self, disk, monkeypatch):
        monkeypatch.setattr("chatpager.engine.tiers.BLOCKS_PER_STEP", 0)
        tier = disk()
        engine = make_engine(num_blocks=17, disk=tier)
        for name, prompt in (("s", LONG), ("t", LONG[::-1])):
            engine.add(request(name, prompt, owner=name), 0.0)
            step(engine, 20)
        monkeypatch.setattr("chatpager.engine.tiers.BLOCKS_PER_STEP", 16)
        engine.close_session("t")
        run(engine)
        tier.flush()
        assert 0 < len(tier) < 10

    def test_what_waits_to_be_written_is_found_and_can_be_forgotten(self, disk, monkeypatch):
        gate = threading.Event()
        write = DiskTier._write

        def slow(self, proof):
            gate.wait()
            write(self, proof)

        monkeypatch.setattr(DiskTier, "_write", slow)
        tier = disk()
        tier.save(b"\1" * 32, b"one")
        tier.save(b"\2" * 32, b"two")
        assert tier.find(b"\1" * 32) == b"one"
        tier.forget(b"\1" * 32)
        tier.clear()
        gate.set()
        tier.flush()
        tier.close()
        assert len(disk()) == 0


class TestFolder:
    def test_one_server_has_it_at_a_time(self, disk, tmp_path):
        tier = disk()
        with pytest.raises(BlockingIOError, match="another server uses"):
            DiskTier(tmp_path / "kv", 1 << 20)
        tier.close()
        tier.close()
        DiskTier(tmp_path / "kv", 1 << 20).close()

    def test_files_beyond_the_capacity_go_at_the_start(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk(capacity=4 * (HEADER.size + 32))
        assert len(tier) == len(list(tier.folder.glob("*/*.kv"))) == 4

    def test_a_file_that_goes_while_one_looks_is_passed_over(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        (tier.folder / "ab").mkdir(exist_ok=True)
        (tier.folder / "ab" / ("ab" * 32 + ".kv")).symlink_to("nowhere")
        (tier.folder / "heads" / "a.head").symlink_to("nowhere")
        assert len(disk()) == 10

    def test_the_thread_outlives_whatever_a_write_raises(self, disk, monkeypatch):
        def broken(path, data):
            raise MemoryError

        monkeypatch.setattr("chatpager.engine.disk_tier.write_whole", broken)
        tier = disk()
        engine = make_engine(disk=tier)
        answer(engine, "first", LONG, owner="s")
        tier.flush()
        assert tier.failed_writes == 10
        assert not engine.has_work
        engine.close()

    def test_a_disk_that_hangs_does_not_hold_up_the_end(self, disk, monkeypatch, caplog):
        gate = threading.Event()
        monkeypatch.setattr("chatpager.engine.tiers.CLOSE_SECONDS", 0.05)
        monkeypatch.setattr("chatpager.engine.disk_tier.MAX_WAITING", 1)
        monkeypatch.setattr(DiskTier, "_write", lambda self, proof: gate.wait())
        tier = disk()
        engine = make_engine(disk=tier)
        engine.add(request("first", LONG, owner="s"), 0.0)
        step(engine, 30)
        engine.close()
        assert "were not written" in caplog.text
        gate.set()
        tier._writer.join()

    def test_a_block_that_is_forgotten_and_saved_again_while_it_is_written_is_the_new_one(self, disk, monkeypatch):
        begun, gate = threading.Event(), threading.Event()
        whole = disk_tier.write_whole

        def slow(path, data):
            begun.set()
            gate.wait()
            whole(path, data)

        monkeypatch.setattr("chatpager.engine.disk_tier.write_whole", slow)
        tier, proof = disk(), b"p" * 32
        tier.save(proof, b"poison")
        begun.wait()
        tier.forget(proof)
        tier.save(proof, b"good")
        gate.set()
        tier.flush()
        assert tier.find(proof) == b"good"
        assert tier._waiting_bytes == 0


class TestHeads:
    def test_after_a_restart_it_is_known_how_warm_conversations_are(self, disk):
        assert make_engine(disk=disk()).warm_fraction is None
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        answer(engine, "second", LONG[::-1], owner="t")
        tier = disk()
        assert make_engine(disk=tier).warm_fraction == 1.0
        tier._path(list(tier._files)[5]).unlink()
        assert disk().warm_fraction == 0.75

    def test_a_record_follows_its_conversation(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        answer(engine, "second", LONG[:8], owner="s")
        tier = disk()
        tier._path(next(iter(tier._files))).unlink()
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
        later.close_session("s")
        later.close_session("s")
        tier.flush()
        assert len(tier) == 10
        assert answer(later, "again", LONG, owner="u").usage.disk_tokens == 20
        later.close_session("t")
        later.close_session("u")
        tier.flush()
        assert not list(tier.folder.glob("*/*"))

    def test_what_a_conversation_leaves_behind_leaves_the_disk(self, disk):
        tier = disk()
        engine = make_engine(num_blocks=60, disk=tier)
        answer(engine, "first", LONG, owner="s")
        answer(engine, "rewound", [*LONG[:8], *range(32)], owner="s")
        tier.flush()
        assert len(tier) == 10
        engine.close_session("s")
        tier.flush()
        assert not list(tier.folder.glob("*/*"))

    def test_a_turn_that_ended_before_its_prompt_was_computed_takes_nothing_away(self, disk):
        tier = disk()
        engine = make_engine(num_blocks=60, disk=tier)
        answer(engine, "first", LONG, owner="s")
        assert engine.cache.reset() == 10
        engine.add(request("second", [*LONG, *range(10)], owner="s"), 0.0)
        step(engine)
        engine.cancel("second")
        run(engine)
        answer(make_engine(caching=False, disk=tier), "third", LONG, owner="s")
        engine.close_session("s")
        tier.flush()
        assert not list(tier.folder.glob("*/*"))

    def test_of_a_conversation_that_nobody_spoke_in_since_the_start_the_record_tells(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        engine = make_engine(disk=tier)
        found = engine.session_cache("s", 0.0)
        assert (found.tokens, found.device_tokens, found.disk_tokens, found.leases) == (40, 0, 40, [])
        assert engine.session_cache("t", 0.0) is None
        assert make_engine().session_cache("s", 0.0) is None

    @pytest.mark.parametrize("damage", [lambda raw: raw[:10], lambda raw: raw[:-1], lambda raw: raw[:-1] + b"?"])
    def test_a_damaged_record_is_none(self, disk, damage):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        [record] = tier.folder.glob("heads/*")
        record.write_bytes(damage(record.read_bytes()))
        tier = disk()
        assert tier.warm_fraction is None
        make_engine(disk=tier).close_session("s")
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


def test_a_preempted_request_is_swapped_to_host_memory_and_back():
    recomputed = {}
    for host in (0, 64):
        engine = make_engine(num_blocks=24, max_tokens=64, host_blocks=host)
        for i in range(3):
            engine.add(request(f"r{i}", range(100 * i, 100 * i + 24), 36), 0.0)
        tokens, _ = run(engine)
        for i in range(3):
            assert tokens[f"r{i}"][0] == continuation(range(100 * i, 100 * i + 24), 36)
        assert engine.scheduler.stats.preemptions > 0
        recomputed[host] = engine.scheduler.stats.recomputed_tokens
    assert recomputed[64] < 0.5 * recomputed[0]


@pytest.mark.parametrize(("host", "least", "most"), [(600, 0.95, 1.0), (0, 0.45, 0.6)])
def test_sessions_that_return_in_turn_with_room_for_half_of_them(host, least, most):
    """The order in which a plain LRU loses every session (measured of the peers: 0 of 32 hit)."""
    engine = make_engine(num_blocks=270, max_tokens=64, max_model_len=120, host_blocks=host)
    histories = {f"s{i}": [i, *range(60)] for i in range(32)}
    cached = attainable = now = 0
    for round in range(4):
        for owner, history in histories.items():
            now += 1
            name, prompt = f"{owner}/{round}", [*history, round]
            engine.add(request(name, prompt, 2, owner=owner), now)
            tokens, finals = run(engine, now=now)
            assert tokens[name][0] == continuation(prompt, 2)
            engine.lease(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=60), now)
            if round:
                cached += finals[name, 0].usage.cached_tokens
                attainable += (len(history) - 1) // 4 * 4
            histories[owner] = [*prompt, *tokens[name][0]]
    assert least <= cached / attainable <= most


def test_both_tiers_together_give_a_prefix_without_a_gap(disk):
    engine = make_engine(num_blocks=17, host_blocks=1, disk=disk())
    answer(engine, "first", LONG, owner="s")
    flood(engine, 1)
    assert sources(answer(engine, "again", LONG, owner="s")) == (24, 4, 8)


def test_a_continued_conversation_extends_what_is_kept(disk):
    engine = make_engine(num_blocks=20, disk=disk())
    answer(engine, "first", LONG, owner="s")
    longer = [*LONG, *continuation(LONG, 4), 7, 8, 9]
    answer(engine, "second", longer, owner="s")
    later = make_engine(num_blocks=20, disk=disk())
    assert answer(later, "third", [*longer, *continuation(longer, 4), 1], owner="s").usage.disk_tokens == 48


class TestOpening:
    def test_a_config_without_tiers_has_none(self):
        assert open_tiers(EngineConfig(swap_space=0), FakeRunner(), b"d" * 32) is None

    def test_sizes_are_in_gib(self, tmp_path):
        config = EngineConfig(swap_space=0.5, kv_dir=str(tmp_path / "kv"), disk_space=0.25)
        tiers = open_tiers(config, FakeRunner(block_size=4), b"d" * 32)
        tiers.close()
        assert tiers.host.capacity == (1 << 29) // 32
        assert tiers.disk.capacity == 1 << 28

    def test_a_folder_that_cannot_be_used_is_refused_by_name(self, tmp_path):
        (tmp_path / "kv").write_text("a file")
        with pytest.raises(ConfigError, match=r"kv_dir.*cannot be used"):
            open_tiers(EngineConfig(kv_dir=str(tmp_path / "kv")), FakeRunner(), b"d" * 32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_cache_gives_back_what_it_gave(tiny_model, dtype):
    import torch

    runner = ModelRunner(EngineConfig(model=str(tiny_model("llama")), num_kv_blocks=16, dtype=dtype))
    layers = [*runner.cache.keys, *runner.cache.values]
    for tensor in layers:
        tensor.copy_(torch.randn(tensor.shape))
    before = [tensor.clone() for tensor in layers]
    contents = runner.read_blocks([3, 7])
    assert [len(c) for c in contents] == [runner.block_bytes] * 2
    assert contents[0] != contents[1]
    runner.write_blocks([9, 3], contents)
    for tensor, old in zip(layers, before, strict=True):
        assert torch.equal(tensor[9], old[3])
        assert torch.equal(tensor[3], old[7])
        assert torch.equal(tensor[7], old[7])


def test_a_proof_is_of_the_whole_prefix_and_its_domain():
    engine = make_engine()
    one, two = engine._intake.hasher(b"one"), engine._intake.hasher(b"two")
    assert one.proof != two.proof
    a = one.prove(one.proof, (1, 2, 3, 4))
    assert one.prove(a, (1, 2, 3, 4)) != a
    assert len({a, one.prove(one.proof, (1, 2, 3, 5)), two.prove(two.proof, (1, 2, 3, 4))}) == 3


def test_tiers_say_what_they_hold():
    tiers = Tiers(FakeRunner())
    assert b"x" * 32 not in tiers
    assert tiers.find(b"x" * 32) is None
    tiers.save("s", [])
    tiers.drop("s")
    tiers.demote([(b"x" * 32, 1)])
    tiers.is_back(b"x" * 32)
    tiers.forget([b"x" * 32])
    tiers.clear()
    tiers.close()
    assert list(Source) == ["host", "disk"]
