"""Blocks in host memory: they come back, and never wrong."""

import sys

import pytest

from chatpager.engine.host_tier import ENTRY_BYTES, HostTier
from tests.engine.fakes import answer, continuation, make_engine, request, run, step
from tests.engine.tiering import LONG, flood, sources


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

    def test_what_small_blocks_take_in_memory_is_no_more_than_is_counted(self):
        count, size = 20_000, 64
        tier = HostTier(count)
        for i in range(count):
            tier.put(i.to_bytes(32, "big"), bytes(size))
        taken = sys.getsizeof(tier._alive) + sum(map(sys.getsizeof, (*tier._alive, *tier._alive.values())))
        assert 0.7 * count * (size + ENTRY_BYTES) < taken <= count * (size + ENTRY_BYTES)

    @pytest.mark.parametrize(("end", "room"), [("edited", 44), ("closed", 35), (None, 35)])
    def test_what_no_conversation_contains_any_more_goes_before_what_is_older(self, end, room):
        engine = make_engine(num_blocks=20, host_blocks=room)
        old, new = LONG, [7, *LONG[1:]]
        answer(engine, "old", old, owner="old")
        answer(engine, "new", new, owner="new")
        flood(engine, 3)
        host = engine.tiers.host
        older, newer = list(engine.leases.heads["old"].proofs), list(engine.leases.heads["new"].proofs)
        assert all(proof in host for proof in older + newer)
        if end == "edited":
            answer(engine, "edit", [*new[:4], *range(900, 936)], owner="new")
        elif end == "closed":
            engine.sessions.close("new")
        answer(engine, "more", range(700, 740), owner="more")
        left = [sum(proof in host for proof in proofs) for proofs in (older, newer[1:])]
        assert len(host) == host.capacity
        if end is None:
            assert left[0] < 10 and left[1] == 9, "the older goes first"
        else:
            assert left[0] == 10 and left[1] < 9
            assert all(proof in host for proof in newer[1 : 1 + left[1]]), "a chain loses its end first"
        engine.audit()

    def test_what_another_conversation_contains_lives_on(self):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        engine.sessions.fork("s", "child")
        flood(engine)
        engine.sessions.close("s")
        assert not engine.tiers.host._dead
        engine.sessions.close("child")
        assert len(engine.tiers.host._dead) == 10

    @pytest.mark.parametrize("closed", [True, False])
    def test_what_dies_on_the_device_is_dead_in_host_memory(self, closed):
        engine = make_engine(num_blocks=20, host_blocks=64)
        answer(engine, "first", LONG, owner="s")
        answer(engine, "hit", LONG, owner="s")
        proofs = set(engine.leases.heads["s"].proofs)
        if closed:
            engine.sessions.close("s")
        flood(engine, 2)
        assert proofs & set(engine.tiers.host._dead if closed else engine.tiers.host._alive)
        assert not proofs & set(engine.tiers.host._alive if closed else engine.tiers.host._dead)

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
        engine.cache.below.restore(seq, match)
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
        assert engine.tiers.copies.failed > 1
        assert "not copied" in caplog.text
