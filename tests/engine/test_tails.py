"""Sharing less than a block: what a conversation's last block holds, or a fork's first, is copied and not computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.block import BlockState, EvictionClass
from chatpager.engine.branches import MOST_COMPARED
from chatpager.engine.heads import Strength
from chatpager.engine.messages import LeaseRequest
from tests.engine.fakes import NamedByTokens, answer, continuation, make_engine, request, run, step
from tests.engine.tiering import sources


def tails(engine):
    return [block for block in engine.pool.index.values() if block.is_tail]


def history(prompt, count=4):
    return [*prompt, *continuation(prompt, count)]


@given(
    first=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    turns=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5),
)
def test_each_turn_computes_exactly_what_is_new(first, turns):
    engine = make_engine(num_blocks=80, max_tokens=64)
    known, prompt = 0, list(first)
    for i, new in enumerate([[], *turns]):
        prompt += new
        usage = answer(engine, f"t{i}", prompt, 3, owner="s").usage
        assert usage.cached_tokens >= known
        if i:
            assert usage.computed_tokens <= len(new) + 1, "the last sampled token was never computed"
        prompt += continuation(prompt, 3)
        known = len(prompt) - 1


@pytest.mark.parametrize("at", range(1, 20))
def test_another_way_from_any_place_shares_all_before_it(at):
    engine = make_engine(num_blocks=80)
    past = history(range(16), 5)
    answer(engine, "s", range(16), 5, owner="s")
    usage = answer(engine, "edited", [*past[:at], 700, 701], 2).usage
    assert (usage.cached_tokens, usage.computed_tokens) == (at, 2)


def test_what_is_in_use_is_copied_too():
    engine = make_engine(num_blocks=80)
    engine.add(request("long", range(6), 30), 0.0)
    step(engine, 20)
    past = history(range(6), 18)
    usage = answer(engine, "beside it", [*past[:22], 700], 2).usage
    assert usage.cached_tokens == 22


def test_of_several_the_one_that_has_most_in_common():
    engine = make_engine(num_blocks=80)
    for i, end in enumerate(([5], [5, 6], [5, 6, 7], [5, 9])):
        answer(engine, f"r{i}", [1, 2, 3, 4, *end], 1)
    assert answer(engine, "again", [1, 2, 3, 4, 5, 6, 7, 8], 1).usage.cached_tokens == 7


def test_where_very_many_go_on_only_the_latest_are_compared():
    engine = make_engine(num_blocks=200)
    answer(engine, "first", [1, 2, 3, 4, 5, 6, 7], 1)
    for i in range(MOST_COMPARED):
        answer(engine, f"r{i}", [1, 2, 3, 4, 5, 100 + i], 1)
    assert answer(engine, "again", [1, 2, 3, 4, 5, 6, 7, 8], 1).usage.cached_tokens == 5


def test_nothing_is_shared_between_salts():
    engine = make_engine(num_blocks=80)
    for length in (3, 6, 11):
        prompt = [length * 10 + i for i in range(length)]
        answer(engine, f"a{length}", prompt, salt=b"a")
        assert answer(engine, f"b{length}", prompt, salt=b"b").usage.cached_tokens == 0
        assert answer(engine, f"a{length} again", prompt, salt=b"a").usage.cached_tokens == length - 1


def test_without_a_prefix_cache_nothing_is_kept():
    engine = make_engine(caching=False)
    answer(engine, "a", range(6))
    assert answer(engine, "b", range(6)).usage.cached_tokens == 0
    assert engine.pool.index == {}


def test_a_tail_is_never_written_to():
    engine = make_engine(num_blocks=80, max_tokens=64)
    answer(engine, "first", range(6), 1, owner="s")
    (tail,) = tails(engine)
    for i in range(3):
        engine.add(request(f"r{i}", [*range(6), 50 + i], 3), 0.0)
    content = list(engine.runner.memory[tail.id])
    tokens, finals = run(engine)
    for i in range(3):
        assert tokens[f"r{i}"][0] == continuation([*range(6), 50 + i], 3)
        assert finals[f"r{i}", 0].usage.cached_tokens == 6
    assert engine.runner.memory[tail.id] == content


class TestWhatItIsWorth:
    def test_of_a_conversation_it_goes_after_what_nobody_has_and_before_its_full_blocks(self):
        engine = make_engine(num_blocks=80)
        answer(engine, "s", range(6), 1, owner="s")
        answer(engine, "nobody's", range(50, 56), 1)
        classes = {block.tokens: block.eviction_class for block in engine.pool.index.values()}
        assert classes == {
            (0, 1, 2, 3): EvictionClass.IDLE,
            (4, 5): EvictionClass.TAIL,
            (50, 51, 52, 53): EvictionClass.DEAD,
            (54, 55): EvictionClass.DEAD,
        }

    def test_a_turn_later_it_is_dead(self):
        engine = make_engine(num_blocks=80)
        answer(engine, "1", range(6), 1, owner="s")
        answer(engine, "2", [*range(6), 7, 8, 9, 10], 1, owner="s")
        classes = {block.tokens: block.eviction_class for block in tails(engine)}
        assert classes == {(4, 5): EvictionClass.DEAD, (9, 10): EvictionClass.TAIL}

    def test_tails_of_nobody_push_no_full_block_out(self):
        engine = make_engine(num_blocks=17)
        answer(engine, "kept", range(40), 1)
        for i in range(30):
            answer(engine, f"short{i}", [60 + i, 1], 1)
        assert answer(engine, "again", range(40), 1).usage.cached_tokens == 39

    def test_a_lease_keeps_it(self):
        engine = make_engine(num_blocks=33, max_model_len=60)
        answer(engine, "s", range(6), 1, owner="s")
        lease = LeaseRequest(owner="s", strength=Strength.HARD, ttl=60, tokens=None)
        assert engine.lease(lease, 0.0).tokens == 6
        for i in range(4):
            answer(engine, f"flood{i}", range(100 * i, 100 * i + 50), 1)
        assert engine.sessions.cache_of("s", 0.0).device_tokens == 6
        assert answer(engine, "again", [*range(6), 7], 1).usage.cached_tokens == 6

    def test_without_room_for_a_copy_it_is_computed(self):
        engine = make_engine(num_blocks=5, max_model_len=12)
        answer(engine, "s", range(6), 1, owner="s")
        engine.add(request("busy", range(50, 55), 4), 0.0)
        step(engine)
        assert engine.pool.available == 2, "the full block and the tail"
        assert answer(engine, "again", [*range(6), 7, 8], 1).usage.cached_tokens == 4

    def test_no_lower_tier_has_it(self, disk):
        engine = make_engine(num_blocks=14, host_blocks=40, disk=disk())
        answer(engine, "s", range(10), 1, owner="s")
        for i in range(3):
            answer(engine, f"flood{i}", range(100 * i, 100 * i + 40), 1, owner=f"f{i}")
        assert sources(answer(engine, "again", [*range(10), 7], 1, owner="s")) == (0, 8, 0)
        later = make_engine(disk=disk())
        assert sources(answer(later, "later", [*range(10), 7], 1, owner="s")) == (0, 0, 8)


class TestForks:
    def test_one_at_the_end_has_the_tail_too(self):
        engine = make_engine(num_blocks=80)
        answer(engine, "s", range(6), 1, owner="s")
        engine.sessions.fork("s", "fork", 6)
        engine.sessions.close("s")
        assert engine.sessions.cache_of("fork", 0.0).device_tokens == 6
        (tail,) = tails(engine)
        assert tail.heads == 1

    def test_one_before_it_has_not(self):
        engine = make_engine(num_blocks=80)
        answer(engine, "s", range(6), 1, owner="s")
        engine.sessions.fork("s", "fork", 5)
        assert engine.sessions.cache_of("fork", 0.0).device_tokens == 4

    def test_both_go_on_from_the_same_tail(self):
        engine = make_engine(num_blocks=80, max_tokens=64)
        answer(engine, "s", range(6), 1, owner="s")
        engine.sessions.fork("s", "fork")
        past = history(range(6), 1)
        for owner, new in (("s", 20), ("fork", 21)):
            engine.add(request(f"{owner} 2", [*past, new], 3, owner=owner), 0.0)
        tokens, finals = run(engine)
        for owner, new in (("s", 20), ("fork", 21)):
            assert tokens[f"{owner} 2"][0] == continuation([*past, new], 3)
            assert finals[f"{owner} 2", 0].usage.cached_tokens == 6


class TestEndings:
    def test_what_others_still_write_to_is_not_kept(self):
        engine = make_engine(num_blocks=80)
        engine.add(request("a", range(6), 1, n=2), 0.0)
        _, finals = run(engine)
        assert len(finals) == 2
        assert len(tails(engine)) == 1, "the last one's"

    def test_the_same_end_twice_is_kept_once(self):
        engine = make_engine(num_blocks=80)
        answer(engine, "a", range(6), 1)
        answer(engine, "b", range(6), 1)
        assert [block.tokens for block in tails(engine)] == [(4, 5)]

    def test_a_name_that_another_content_has_keeps_nothing(self):
        class OneName(NamedByTokens):
            def tail(self, parent, token_ids):
                return self.chain(parent, [1])

        engine = make_engine()
        engine._intake.hasher = lambda salt: OneName([], 4)
        answer(engine, "full", [1, 2, 3, 4, 5, 6, 7], 1)
        answer(engine, "short", [9, 9], 1)
        assert engine.cache.stats.collisions > 0
        assert answer(engine, "again", [9, 9, 9], 1).usage.cached_tokens == 0

    def test_of_a_prompt_that_is_left_it_is_what_was_computed(self):
        engine = make_engine(max_tokens=6)
        engine.add(request("left", range(20), 3, owner="s"), 0.0)
        step(engine)
        engine.cancel("left")
        run(engine)
        assert answer(engine, "again", range(20), 1).usage.cached_tokens == 6

    def test_one_that_was_cancelled_before_it_wrote_keeps_nothing_new(self):
        engine = make_engine(max_seqs=1)
        answer(engine, "s", range(6), 1, owner="s")
        engine.add(request("waits", [*range(6), 7], 3, owner="s"), 0.0)
        engine.cancel("waits")
        run(engine)
        assert [block.tokens for block in tails(engine)] == [(4, 5)]

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_step_that_raises_copies_again(self, when):
        engine = make_engine(num_blocks=80, max_tokens=64)
        answer(engine, "s", range(6), 1, owner="s")
        for name in "ab":
            engine.add(request(name, [*range(6), ord(name)], 3), 0.0)
        engine.runner.raise_once = when
        tokens, _ = run(engine)
        for name in "ab":
            assert tokens[name][0] == continuation([*range(6), ord(name)], 3)

    def test_poison_that_was_copied_is_not_found_again(self):
        engine = make_engine()
        answer(engine, "s", range(3), 1, owner="s")
        engine.runner.nan_for.add("reader")
        engine.add(request("reader", [*range(3), 9], 2), 0.0)
        _, finals = run(engine)
        assert (finals["reader", 0].usage.cached_tokens, finals["reader", 0].error_code) == (3, "engine_numeric_error")
        assert engine.pool.index == {}
        assert all(block.state is not BlockState.CACHED for block in engine.pool.blocks)
