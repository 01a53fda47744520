"""The cache by hand: collisions of names, ancestors that left, poisoned content."""

import pytest

from chatpager.engine.block import BlockState
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.sequence import SamplingParams, Sequence
from tests.engine.fakes import NamedByTokens

SIZE = 4


@pytest.fixture
def cache():
    return PrefixCache(BlockPool(20), SIZE)


def sequence(*tokens, hasher=None):
    """Each number stands for a block of it; one more token makes the last block matchable."""
    ids = [t for n in tokens for t in [n] * SIZE]
    return Sequence("r", [*ids, 99], SamplingParams(), hasher or NamedByTokens([], SIZE), max_length=1000)


def compute(cache, *tokens, hasher=None):
    """A sequence whose blocks are all computed and published as far as they can be."""
    seq = sequence(*tokens, hasher=hasher)
    seq.block_table = cache.allocate(len(tokens))
    seq.committed = len(tokens) * SIZE
    cache.publish(seq)
    return seq


def found(cache, *tokens):
    match = cache.match(sequence(*tokens))
    blocks = [block.tokens[0] for block in match.blocks]
    match.rollback()
    return blocks


def test_what_was_published_is_found_as_far_as_it_agrees(cache):
    compute(cache, 1, 2, 3)
    assert found(cache, 1, 2, 3) == [1, 2, 3]
    assert found(cache, 1, 2, 9) == [1, 2]
    assert found(cache, 9, 2, 3) == []


def test_a_name_that_other_content_holds_is_a_miss(cache):
    compute(cache, 1, 2)
    other = sequence(1, 2)
    other.token_ids[5] = 77  # the second block has another token, and by its first one the same name
    match = cache.match(other)
    assert len(match.blocks) == 1
    assert cache.stats.collisions == 1
    match.rollback()


def test_a_name_under_another_parent_is_a_miss_and_nothing_is_published_behind_it(cache):
    compute(cache, 1, 5, 6)
    theirs = compute(cache, 2, 5, 7)
    assert theirs.published == 1
    assert found(cache, 2, 5, 6) == [2]
    assert found(cache, 2, 5, 7) == [2]
    assert cache.stats.collisions >= 2


def test_a_twin_that_left_is_replaced_by_our_own_copy(cache):
    first = compute(cache, 1, 2)
    second = compute(cache, 1, 2)
    assert cache.pool.blocks[second.block_table[0]].state is BlockState.OWNED
    cache.free(first.block_table)
    cache.reset()
    second.token_ids[8:] = [3] * SIZE + [99]
    second.block_table += cache.allocate(1)
    second.committed = 12
    cache.publish(second)
    assert [cache.pool.blocks[b].state for b in second.block_table] == [BlockState.CACHED] * 3
    assert found(cache, 1, 2, 3) == [1, 2, 3]
    cache.audit([second.block_table])


@pytest.mark.parametrize(
    ("thieves", "left"),
    [([(8, 2)], [1]), ([(2,)], [1]), ([(8, 1, 2)], []), ([(1,), (8, 2)], [1])],
    ids=["other parent", "a root", "deeper", "other parent, and our own root"],
)
def test_a_block_with_our_tokens_and_another_past_is_not_our_parent(cache, thieves, left):
    """Our twin's blocks are evicted, and other chains take their names."""
    first = compute(cache, 1, 2)
    second = compute(cache, 1, 2)
    cache.free(first.block_table)
    cache.reset()
    tables = [compute(cache, *thief).block_table for thief in thieves]
    second.token_ids[8:] = [3] * SIZE + [99]
    second.block_table += cache.allocate(1)
    second.committed = 12
    cache.publish(second)
    for thief in thieves:
        assert found(cache, *thief, 3) == [*thief], "block 3 was computed after 1, 2"
    assert found(cache, 1, 2, 3) == left
    cache.audit([second.block_table, *tables])


def test_a_chain_of_twins_back_to_its_root_is_verified(cache):
    compute(cache, 1, 2)
    second = compute(cache, 1, 2)
    second.token_ids[8:] = [3] * SIZE + [99]
    second.block_table += cache.allocate(1)
    second.committed = 12
    cache.publish(second)
    assert found(cache, 1, 2, 3) == [1, 2, 3]


def test_a_chain_ends_where_a_twin_was_evicted(cache):
    first = compute(cache, 1, 2)
    second = compute(cache, 1, 2)
    assert cache.chain(second) == cache.chain(first) != []
    cache.free(first.block_table)
    cache.reset()
    assert (second.published, cache.chain(second)) == (2, [])


def test_discarding_takes_what_it_read_and_everything_that_was_built_on_it(cache):
    good = compute(cache, 1)
    other = compute(cache, 9)
    bad = sequence(1, 2)
    match = cache.match(bad)
    bad.block_table = [*match.commit(), *cache.allocate(1)]
    bad.written = bad.published = 1
    bad.committed = 8
    cache.publish(bad)
    child = sequence(1, 2, 4)
    child.block_table = [*cache.match(child).commit(), *cache.allocate(1)]
    child.written = child.published = 2
    child.committed = 12
    cache.publish(child)
    assert found(cache, 1, 2, 4) == [1, 2, 4]
    cache.discard(bad)
    assert found(cache, 1, 2, 4) == []
    assert found(cache, 9) == [9], "what has nothing to do with it stays"
    cache.audit([good.block_table, bad.block_table, child.block_table, other.block_table])
    for seq in (bad, child, good, other):
        cache.free(seq.block_table)
    assert cache.reset() == 1
    assert cache.pool.counts()["free"] == cache.pool.usable


def test_nothing_is_published_behind_what_was_read_and_discarded(cache):
    first = compute(cache, 1)
    reader = sequence(1, 2)
    match = cache.match(reader)
    reader.block_table = [*match.commit(), *cache.allocate(1)]
    reader.published = reader.written = 1
    cache.discard(first)
    reader.committed = 2 * SIZE
    cache.publish(reader)
    assert reader.published == 1
    assert found(cache, 1, 2) == []


def test_discarding_looks_at_the_whole_cache_once_however_long_the_chain(cache):
    class Watched(dict):
        passes = 0

        def values(self):
            self.passes += 1
            return super().values()

    bad = compute(cache, 1)
    compute(cache, *range(1, 10))
    cache.pool.index = Watched(cache.pool.index)
    cache.discard(bad)
    assert (cache.pool.index, cache.pool.index.passes) == ({}, 1)


def test_discarding_frees_what_nobody_holds(cache):
    bad = compute(cache, 1, 2, 3)
    grandchild = compute(cache, 1, 2, 3, 4)
    cache.free(grandchild.block_table)
    cache.discard(bad)
    assert found(cache, 1, 2, 3, 4) == []
    cache.audit([bad.block_table])
    cache.free(bad.block_table)
    assert cache.pool.counts()["free"] == cache.pool.usable


def test_a_cache_that_is_off_finds_and_publishes_nothing():
    cache = PrefixCache(BlockPool(20), SIZE, enabled=False)
    seq = compute(cache, 1, 2)
    assert cache.peek(sequence(1, 2)) == 0
    assert found(cache, 1, 2) == []
    cache.discard(seq)
    assert cache.pool.index == {}


def test_looking_finds_the_end_of_the_chain_by_bisection(cache):
    chain = list(range(1, 17))
    compute(cache, *chain)
    assert [cache.peek(sequence(*chain[:n])) for n in range(17)] == list(range(17))
    assert cache.peek(sequence(*chain[:7], 99, 98)) == 7


def test_taking_more_than_there_is_is_a_bug(cache):
    with pytest.raises(AssertionError):
        cache.allocate(20)


def test_the_audit_misses_a_candidate_that_was_not_offered(cache):
    seq = compute(cache, 1)
    cache.free(seq.block_table)
    cache.audit([])
    cache._order._heap.clear()
    with pytest.raises(AssertionError, match="not among the candidates"):
        cache.audit([])
    with pytest.raises(AssertionError, match="none on the heap"):
        cache.reset()
