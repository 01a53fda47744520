"""Blocks in files: warm after a restart, whatever happens to the files."""

import os
import shutil
import threading

import pytest

from chatpager.engine import block_folder
from chatpager.engine.block_files import HEADER
from chatpager.engine.block_folder import claim
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.head_records import HeadRecords
from chatpager.engine.patient import Hangs
from chatpager.engine.reading import Source
from chatpager.engine.tiers import Tiers
from tests.descriptors import none_left
from tests.engine.fakes import FakeRunner, answer, continuation, make_engine, request, run, step
from tests.engine.tiering import LONG, sources
from tests.gate import DEADLINE


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

    @pytest.mark.parametrize("restarted", [False, True])
    def test_of_a_conversation_its_end_goes_before_its_beginning(self, disk, restarted):
        """A beginning that is lost makes the rest useless (failure row 3)."""
        size = HEADER.size + 32
        engine = make_engine(num_blocks=60, disk=disk(capacity=1 << 20))
        answer(engine, "first", LONG, owner="s")
        tier = engine.tiers.disk
        tier.flush()
        if restarted:
            tier = disk(capacity=14 * size)
            engine = make_engine(num_blocks=60, disk=tier)
        tier.capacity = 14 * size
        answer(engine, "other", range(300, 340), owner="t")
        tier.flush()
        proofs = engine.leases.heads["t"].proofs
        assert all(proof in tier for proof in proofs), "the latest is whole"
        left = [proof in tier for proof in tier.heads.of("s")]
        assert left == [True] * 4 + [False] * 6

    def test_what_the_device_has_is_not_read(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        assert sources(answer(engine, "again", LONG, owner="s")) == (39, 0, 0)

    def test_what_is_expected_is_brought_back_while_nothing_is_computed(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        engine = make_engine(disk=disk())
        engine.add(request("busy", [1, 2, 3], 4), 0.0)
        assert engine.prefetch(request("soon", LONG, 1, owner="s"), 0.0) == 0
        run(engine)
        assert engine.prefetch(request("soon", LONG, 1, owner="s"), 0.0) == 36
        engine.audit()
        assert len(engine.leases.heads["s"].proofs) == 9
        assert engine.prefetch(request("soon", LONG, 1, owner="s"), 0.0) == 0
        assert sources(answer(engine, "again", LONG, owner="s")) == (36, 0, 0)

    def test_what_is_expected_never_takes_the_place_of_what_is_there(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        engine = make_engine(num_blocks=14, disk=disk())
        kept = answer(engine, "other", list(range(200, 220)), owner="t")
        assert engine.prefetch(request("soon", LONG, 1, owner="s"), 0.0) == 0
        assert kept.usage.computed_tokens == 20
        assert sources(answer(engine, "again", list(range(200, 220)), owner="t"))[0] == 19

    def test_another_model_finds_nothing(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        other = make_engine(disk=disk())
        other.runner.hash_domain = lambda: [("model", "another")]
        assert answer(other, "again", LONG, owner="s").usage.cached_tokens == 0

    @pytest.mark.parametrize("place", [0, 20, HEADER.size - 1, HEADER.size, -1])
    def test_a_flipped_bit_is_a_miss(self, disk, place, caplog):
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
        assert "does not hold what its name says" in caplog.text
        assert sources(answer(make_engine(disk=disk()), "third", LONG, owner="s"))[2] == 4

    @pytest.mark.parametrize("damage", ["short", "empty", "longer", "swapped", "gone", "unreadable"])
    def test_a_damaged_file_is_a_miss_from_there_on(self, disk, damage):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        tier = disk()
        third = tier._files.path_of(tier.heads.of("s")[2])
        raw = third.read_bytes()
        if damage in ("gone", "unreadable"):
            third.unlink()
            if damage == "unreadable":  # also for root
                third.symlink_to(third.name)
        else:
            other = tier._files.path_of(tier.heads.of("s")[5]).read_bytes()
            third.write_bytes({"short": raw[:-1], "empty": b"", "longer": raw + b"\0", "swapped": other}[damage])
        found = answer(make_engine(disk=tier), "again", LONG, owner="s")
        assert found.usage.disk_tokens == 8
        assert tier.bad_files == 1
        assert damage == "gone" or not third.exists() or len(third.read_bytes()) == len(raw)
        assert not third.is_symlink()

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

    def test_a_conversation_that_goes_on_is_whole_again_after_its_folder_was_deleted(self, disk, caplog):
        tier = disk()
        engine = make_engine(disk=tier)
        answer(engine, "first", LONG, owner="s")
        tier.flush()
        shutil.rmtree(tier.folder)
        longer = [*LONG, *continuation(LONG, 4), 7]
        answer(engine, "second", longer, owner="s")
        assert "was deleted" in caplog.text
        with pytest.raises(BlockingIOError):
            claim(tier.folder)
        engine.close()
        later = make_engine(disk=disk())
        assert sources(answer(later, "third", [*longer, 8], owner="s")) == (0, 0, 44)

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

    def test_without_a_descriptor_nothing_is_taken_for_damaged_and_a_deletion_is_made_up_for(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        engine = make_engine(disk=(tier := disk()))
        with none_left():
            found = answer(engine, "meanwhile", LONG[:20], owner="t")
            assert found.usage.disk_tokens == 0 and tier.heads.of("s") == () and tier.heads.names() == set()
            engine.sessions.close("s")
            engine.sessions.close_all("nobody")
            tier.flush()
        assert (len(tier), tier.bad_files) == (10, 0) and tier.failed_writes >= 3
        assert answer(make_engine(disk=tier), "later", LONG, owner="u").usage.disk_tokens == 36
        tier.flush()
        assert len(tier.heads.names()) == 1 and not tier._jobs._undone, (
            "the deletion was done behind the first job that could be"
        )

    def test_what_is_slower_to_read_than_to_compute_is_left_there_until_it_is_worth_a_try(self, disk):
        engine = make_engine(disk=disk())
        answer(engine, "first", LONG, owner="s")
        later = make_engine(disk=disk())
        later.tiers.times.read.add(1.0)
        later.tiers.times.compute.add(0.5)
        assert answer(later, "again", LONG, owner="t").usage.disk_tokens == 0
        assert later.tiers.times.passed_over[Source.DISK] == 1
        while later.tiers.times.is_slower(Source.DISK):
            pass
        assert later.tiers.times.read.seconds <= 0.5

    def test_a_few_blocks_are_saved_a_step_while_others_wait_for_theirs(self, disk, monkeypatch):
        monkeypatch.setattr("chatpager.engine.saving.SAVED_IDLE", 3 * 32)
        monkeypatch.setattr("chatpager.engine.saving.SAVED_BUSY", 1)
        tier = disk()
        engine = make_engine(disk=tier)
        answer(engine, "first", LONG, owner="s")
        engine.add(request("second", LONG[::-1], 4, owner="t"), 0.0)
        engine.add(request("third", range(300, 320), 6), 0.0)
        while "second" in engine._requests:
            step(engine)
        while engine.has_work:
            before = len(engine.tiers._saving._unsaved)
            step(engine)
            most = 1 if engine.scheduler.running else 3
            assert before - len(engine.tiers._saving._unsaved) == min(before, most)
        tier.flush()
        assert len(tier) == 20

    def test_where_the_disk_is_behind_blocks_wait_in_the_cache(self, disk, monkeypatch):
        gate = threading.Event()
        write = DiskTier._write
        monkeypatch.setattr("chatpager.engine.disk_tier.MAX_WAITING", 3 * 32)
        monkeypatch.setattr("chatpager.engine.saving.SAVED_IDLE", 1)
        monkeypatch.setattr(DiskTier, "_write", lambda self, proof: gate.wait() and write(self, proof))
        tier = disk()
        engine = make_engine(disk=tier)
        engine.add(request("first", LONG, owner="s"), 0.0)
        step(engine, 30)
        assert len(engine.tiers._saving._unsaved) == 7
        gate.set()
        engine.close()
        assert len(tier) == 10

    def test_an_engine_that_cannot_save_lets_go_of_the_folder_and_of_host_memory(self, disk, tmp_path, monkeypatch):
        engine = make_engine(disk=disk(), host_blocks=8)
        engine.tiers.host.put(b"x" * 32, b"k")
        monkeypatch.setattr(Tiers, "work", lambda self, *, idle: 1 / 0)
        engine.tiers._saving._unsaved.append((engine.pool.blocks[1], 0))
        with pytest.raises(ZeroDivisionError):
            engine.close()
        assert len(engine.tiers.host) == 0
        disk().close()

    def test_what_was_evicted_or_deleted_meanwhile_is_not_saved(self, disk, monkeypatch):
        monkeypatch.setattr(Tiers, "work", lambda self, *, idle: None)
        tier = disk()
        engine = make_engine(num_blocks=17, disk=tier)
        for name, prompt in (("s", LONG), ("t", LONG[::-1])):
            engine.add(request(name, prompt, owner=name), 0.0)
            step(engine, 20)
        monkeypatch.undo()
        engine.sessions.close("t")
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

    def test_nothing_goes_at_the_start_where_the_records_cannot_be_listed(self, disk, tmp_path):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        disk().close()
        heads = (tmp_path / "kv" / "heads").rename(tmp_path / "away")
        (tmp_path / "kv" / "heads").touch()
        with pytest.raises(NotADirectoryError):
            DiskTier(tmp_path / "kv", 1 << 20)
        (tmp_path / "kv" / "heads").unlink()
        heads.rename(tmp_path / "kv" / "heads")
        assert len(disk()) == 10, "and nobody has the folder"

    def test_what_no_record_holds_goes_at_the_start(self, disk):
        """Who deleted it was killed between its record and its blocks."""
        answer(make_engine(disk=disk()), "first", LONG, owner="old")
        records = set((disk().folder / "heads").iterdir())
        answer(make_engine(disk=(tier := disk())), "second", LONG[::-1], owner="new")
        tier.flush()
        for record in set((tier.folder / "heads").iterdir()) - records:
            record.unlink()
        tier = disk()
        assert len(tier) == len(list(tier.folder.glob("*/*.kv"))) == 10
        assert sources(answer(make_engine(disk=tier), "again", LONG, owner="old")) == (0, 0, 36)

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

        monkeypatch.setattr("chatpager.engine.block_folder.write_whole", broken)
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
        tier._jobs._thread.join()

    def test_a_read_that_hangs_is_waited_for_once_and_the_folder_is_left_until_it_has_ended(self, disk, caplog):
        """A pipe in place of the third block: who opens it waits until somebody writes."""
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier = disk()
        third = tier._files.path_of(tier.heads.of("s")[2])
        content = third.read_bytes()
        third.unlink()
        os.mkfifo(third)
        tier._reader.seconds = 0.5  # long enough for the two before it, on a machine that is busy
        found = answer(make_engine(disk=tier), "again", LONG, owner="s")
        assert (found.usage.disk_tokens, found.usage.computed_tokens) == (8, 32) and "hangs" in caplog.text
        tier._reader.seconds = 60.0  # nobody waits so long
        engine = make_engine(disk=tier)
        assert answer(engine, "meanwhile", LONG, owner="t").usage.disk_tokens == 0
        assert tier.heads.of("s") == () and engine.sessions.fork("s", "u", 40) is None
        assert tier.bad_files == 0 and tier._reader.hung > 1
        stuck = tier._reader._stuck
        tier.close()
        tier = disk()  # an engine that takes this one's place
        tier._files.path_of(tier.heads.of("s")[0]).read_bytes()
        with third.open("wb") as pipe:
            pipe.write(content)
        assert stuck.result(60)[0]
        third.unlink()
        third.write_bytes(content)
        assert answer(make_engine(disk=tier), "then", LONG, owner="s").usage.disk_tokens == 36
        assert tier.bad_files == 0

    def test_what_is_forgotten_while_the_file_system_hangs_is_deleted_by_the_thread_that_writes(self, disk):
        answer(make_engine(disk=disk()), "first", LONG, owner="s")
        tier, gate = disk(), threading.Event()
        [first, second, *_] = tier.heads.of("s")
        tier._reader.seconds = 0.05
        with pytest.raises(Hangs):
            tier._reader.ask(gate.wait)
        tier.forget(first)
        tier.flush()
        assert first not in tier and not tier._files.path_of(first).exists() and tier._files.path_of(second).exists()
        tier.close()
        gate.set()

    def test_a_block_that_is_forgotten_and_saved_again_while_it_is_written_is_the_new_one(self, disk, monkeypatch):
        begun, gate = threading.Event(), threading.Event()
        whole = block_folder.write_whole

        def slow(path, data):
            begun.set()
            gate.wait()
            whole(path, data)

        monkeypatch.setattr("chatpager.engine.block_folder.write_whole", slow)
        tier, proof = disk(), b"p" * 32
        tier.save(proof, b"poison")
        begun.wait()
        tier.forget(proof)
        tier.save(proof, b"good")
        gate.set()
        tier.flush()
        assert tier.find(proof) == b"good"
        assert tier._index.waiting_bytes == 0


class TestSharedBlocks:
    """A conversation that lets go of a block while another one takes it: the writer does both later."""

    P, X, Y = (bytes([i]) * 32 for i in (1, 2, 3))

    def kept(self, tier):
        tier.heads.keep("a", [self.P, self.X])
        tier.save(self.P, b"p" * 64)
        tier.save(self.X, b"x" * 64)
        tier.flush()

    def take(self, tier):
        """As ``Tiers.save`` does."""
        tier.heads.keep("b", [self.P, self.Y])
        for proof in (self.P, self.Y):
            if proof not in tier:
                tier.save(proof, b"n" * 64)

    @pytest.mark.parametrize("gone", ["deleted", "rewound"])
    def test_what_another_one_has_meanwhile_stays(self, tmp_path, gone):
        tier = DiskTier(tmp_path / "kv", 1 << 20)
        self.kept(tier)
        busy, go_on = threading.Event(), threading.Event()
        with tier._lock:
            tier._jobs.put(lambda: (busy.set(), go_on.wait(DEADLINE)))
        busy.wait(DEADLINE)
        tier.heads.drop("a") if gone == "deleted" else tier.heads.keep("a", [self.X])
        self.take(tier)
        go_on.set()
        tier.flush()
        assert tier.heads.of("b") == (self.P, self.Y)
        assert self.P in tier and self.Y in tier
        assert tier.find(self.P) == b"p" * 64
        assert (self.X in tier) == (gone == "rewound")
        tier.close()

    def test_what_nobody_has_any_more_goes(self, tmp_path):
        tier = DiskTier(tmp_path / "kv", 1 << 20)
        self.kept(tier)
        self.take(tier)
        tier.heads.drop("a")
        tier.heads.drop("b")
        tier.flush()
        assert len(tier) == 0
        tier.close()

    def test_what_is_deleted_while_it_waits_is_never_written(self, tmp_path, monkeypatch):
        """A crash must not leave behind what was deleted before it, however far the disk is behind."""
        written = []
        whole = block_folder.write_whole
        monkeypatch.setattr(
            "chatpager.engine.block_folder.write_whole", lambda *file: (written.append(file), whole(*file))
        )
        tier = DiskTier(tmp_path / "kv", 1 << 20)
        self.kept(tier)
        busy, go_on, before = threading.Event(), threading.Event(), len(written)
        with tier._lock:
            tier._jobs.put(lambda: (busy.set(), go_on.wait(DEADLINE)))
        busy.wait(DEADLINE)
        for proofs in ([self.P, self.X, b"z" * 32], [self.P, self.X, self.Y]):
            tier.heads.keep("a", proofs)
            tier.save(proofs[-1], b"s" * 64)
        tier.heads.keep("b", [self.P])
        tier.heads.drop("a")
        with tier._lock:  # a crash, just after what the deletion put before everything else
            first = [job for job in tier._jobs._queue if job.func in (tier._files.delete, tier.heads._record)][:3]
            tier._jobs._queue.clear()
            tier._jobs._queue.extend(first)
        go_on.set()
        tier.flush()
        tier.close()
        assert len(written) == before
        assert not list((tmp_path / "kv" / "heads").iterdir())
        assert [path.stem for path in (tmp_path / "kv").glob("*/*.kv")] == [self.P.hex()], "b has it"

    def test_of_records_that_wait_the_last_one_is_written(self, tmp_path, monkeypatch):
        written = []
        write = HeadRecords.write
        monkeypatch.setattr(HeadRecords, "write", lambda *args: (written.append(args[2]), write(*args))[1])
        tier = DiskTier(tmp_path / "kv", 1 << 20)
        busy, go_on = threading.Event(), threading.Event()
        with tier._lock:
            tier._jobs.put(lambda: (busy.set(), go_on.wait(DEADLINE)))
        busy.wait(DEADLINE)
        self_and_others = [[self.P], [self.P, self.X], [self.P, self.Y]]
        for proofs in self_and_others:
            tier.heads.keep("a", proofs)
            tier.save(proofs[-1], b"s" * 64)
        go_on.set()
        tier.flush()
        assert written == [[self.P, self.Y]]
        assert tier.heads.of("a") == (self.P, self.Y) and self.X not in tier
        tier.heads.drop("a")
        tier.flush()
        assert len(tier) == 0 and not tier.heads._records._holders
        tier.close()

    def test_a_record_that_cannot_be_written_holds_nothing(self, tmp_path, monkeypatch):
        tier = DiskTier(tmp_path / "kv", 1 << 20)
        self.kept(tier)
        with monkeypatch.context() as broken:

            def full(*_):
                raise OSError("no space")

            broken.setattr("chatpager.engine.head_records.write_whole", full)
            tier.heads.keep("b", [self.P])
            tier.flush()
        tier.heads.drop("a")
        tier.flush()
        assert len(tier) == 0 and tier.failed_writes == 1
        tier.close()

    def test_a_folder_that_is_still_written_to_stays_taken(self, tmp_path):
        tier = DiskTier(tmp_path / "kv", 1 << 20)
        busy, go_on = threading.Event(), threading.Event()
        with tier._lock:
            tier._jobs.put(lambda: (busy.set(), go_on.wait(DEADLINE)))
        busy.wait(DEADLINE)
        tier.close(patience=0.0)
        with pytest.raises(BlockingIOError):
            DiskTier(tmp_path / "kv", 1 << 20)
        go_on.set()
        tier._jobs._thread.join(DEADLINE)
        tier._files.let_go()
