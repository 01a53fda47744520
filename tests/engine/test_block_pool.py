import pytest

from chatpager.engine.block import BlockState
from chatpager.engine.block_hash import BlockHash
from chatpager.engine.block_pool import BlockPool


def named_chain(pool, count, prefix=b""):
    """``count`` CACHED blocks, each the parent of the next, all held once."""
    chain, parent = [], None
    for i in range(count):
        block = pool.take_free()
        pool.name(block, BlockHash(prefix + bytes([i])), parent, (i,))
        chain.append(block)
        parent = block
    return chain


def tables(*blocks):
    return [[b.id for b in blocks]]


def test_block_zero_is_nobodys():
    pool = BlockPool(4)
    taken = [pool.take_free().id for _ in range(3)]
    assert sorted(taken) == [1, 2, 3]
    assert pool.available == 0
    assert pool.usable == 3


def test_every_block_is_in_one_state_and_the_counts_sum_to_all():
    pool = BlockPool(8)
    a = pool.take_free()
    chain = named_chain(pool, 2)
    assert pool.counts() == {"free": 4, "cached": 0, "active": 3}
    pool.audit(tables(a, *chain))
    for block in (a, *reversed(chain)):
        pool.release(block)
    assert pool.counts() == {"free": 5, "cached": 2, "active": 0}
    pool.audit([])


def test_releasing_twice_is_caught():
    pool = BlockPool(3)
    block = pool.take_free()
    pool.release(block)
    with pytest.raises(AssertionError, match="released more often than held"):
        pool.release(block)


def test_a_shared_block_goes_back_with_its_last_holder():
    pool = BlockPool(3)
    block = pool.take_free()
    pool.share(block)
    pool.release(block)
    assert block.state is BlockState.OWNED
    pool.release(block)
    assert block.state is BlockState.FREE


def test_a_recycled_block_has_no_name():
    pool = BlockPool(2)
    (block,) = named_chain(pool, 1)
    pool.release(block)
    pool.evict(block)
    assert pool.take_free() is block
    assert block.hash is None
    assert block.tokens == ()
    assert pool.index == {}


def test_a_parent_cannot_be_evicted_before_its_children():
    pool = BlockPool(4)
    parent, child = named_chain(pool, 2)
    assert not pool.release(child) or child.children == 0
    assert not pool.release(parent), "a parent is no candidate"
    with pytest.raises(AssertionError):
        pool.evict(parent)
    assert pool.evict(child) is parent, "now it is one"
    assert pool.evict(parent) is None
    pool.audit([])


def test_a_block_whose_child_is_held_counts_as_held_up_to_the_root():
    """The child's holder has duplicates of the ancestors, so nobody holds those directly."""
    pool = BlockPool(8)
    grandparent, parent = named_chain(pool, 2)
    for block in (parent, grandparent):
        pool.release(block)
    assert pool.evictable == 2
    child = pool.take_free()
    pool.name(child, BlockHash(b"child"), parent, (9,))
    assert pool.evictable == 0
    assert pool.counts()["active"] == 3
    pool.audit(tables(child))
    pool.release(child)
    assert pool.evictable == 3
    pool.audit([])


def test_a_block_that_is_pinned_and_then_held_counts_once():
    pool = BlockPool(8)
    (parent,) = named_chain(pool, 1)
    pool.release(parent)
    child = pool.take_free()
    pool.name(child, BlockHash(b"child"), parent, (9,))
    pool.share(parent)
    pool.audit(tables(parent, child))
    pool.release(parent)
    pool.audit(tables(child))
    pool.release(child)
    assert pool.evictable == 2


def test_holding_the_middle_of_a_chain_leaves_the_rest_evictable():
    pool = BlockPool(8)
    chain = named_chain(pool, 3)
    for block in reversed(chain):
        pool.release(block)
    pool.share(chain[1])
    assert pool.evictable == 1
    pool.audit(tables(chain[1]))
    pool.release(chain[1])
    assert pool.evictable == 3


def test_unnaming_takes_a_held_block_out_of_the_index_and_leaves_it_to_its_holder():
    pool = BlockPool(8)
    parent, child = named_chain(pool, 2)
    pool.release(parent)
    assert pool.evictable == 0
    pool.unname(child)
    assert child.state is BlockState.OWNED
    assert pool.evictable == 1, "nothing pins the parent any more"
    pool.audit(tables(child))
    pool.unname(parent)
    assert parent.state is BlockState.FREE
    pool.audit(tables(child))


def test_unnaming_a_first_block_needs_no_parent():
    pool = BlockPool(3)
    (block,) = named_chain(pool, 1)
    pool.unname(block)
    assert block.state is BlockState.OWNED
    pool.audit(tables(block))


@pytest.mark.parametrize(
    "damage",
    [
        lambda pool, block: setattr(block, "ref", 2),
        lambda pool, block: setattr(block, "children", 1),
        lambda pool, block: pool.free.append(block.id),
        lambda pool, block: pool.free.append(pool.free[0]),
        lambda pool, block: setattr(pool, "evictable", 1),
        lambda pool, block: pool.index.clear(),
        lambda pool, block: setattr(block, "state", BlockState.OWNED),
        lambda pool, block: setattr(pool.blocks[2], "state", BlockState.OWNED),
        lambda pool, block: setattr(pool.blocks[2], "state", BlockState.NULL),
    ],
)
def test_the_audit_sees_damage(damage):
    pool = BlockPool(4)
    (block,) = named_chain(pool, 1)
    pool.audit(tables(block))
    damage(pool, block)
    with pytest.raises((AssertionError, KeyError)):
        pool.audit(tables(block))


def test_the_audit_refuses_a_table_with_the_null_block():
    pool = BlockPool(3)
    with pytest.raises(AssertionError, match="null block"):
        pool.audit([[0]])


def test_a_block_says_what_it_is():
    pool = BlockPool(3)
    assert repr(pool.take_free()) == "Block(1 OWNED ref=1 children=0 pins=0)"
