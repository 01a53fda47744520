"""Two tenants ask the same: nothing of the one is the other's, on no tier; within one tenant everything is (row 20)."""

import pytest

from tests.engine.fakes import NamedByTokens, answer, make_engine
from tests.engine.tiering import LONG, flood, sources

A, B = b"tenant a", b"tenant b"
FULL = 36
"""Tokens of ``LONG`` that a match may cover."""


@pytest.fixture
def where(disk):
    """Engines on which ``LONG`` of tenant A is on a certain tier alone, and where its next turn finds it."""

    def make(tier):
        engine = make_engine(
            num_blocks=33, host_blocks=100 if tier == "host" else 0, disk=disk() if tier == "disk" else None
        )
        answer(engine, "first", LONG, owner="a", salt=A)
        if tier == "host":
            flood(engine)
        if tier == "disk":
            engine.close()
            engine = make_engine(num_blocks=33, disk=disk())
        return engine

    return make


FOUND = {"device": (len(LONG) - 1, 0, 0), "host": (0, FULL, 0), "disk": (0, 0, FULL)}


@pytest.mark.parametrize("tier", FOUND)
def test_the_other_tenant_computes_all_of_it_and_the_same_one_nothing_twice(where, tier):
    engine = where(tier)
    foreign = answer(engine, "foreign", LONG, owner="b", salt=B)
    assert sources(foreign) == (0, 0, 0)
    assert foreign.usage.computed_tokens == len(LONG)
    assert sources(answer(where(tier), "own", LONG, owner="a2", salt=A)) == FOUND[tier]


def kept(engine):
    """Proofs of what there is, by tier."""
    tiers = engine.tiers
    on_disk = tiers.disk if tiers else None
    if on_disk is not None:
        on_disk.flush()
    return {
        "device": {block.proof for block in engine.pool.index.values() if not block.is_tail},
        "host": {*tiers.host._alive, *tiers.host._dead} if tiers and tiers.host is not None else set(),
        "disk": set(on_disk._index.files) if on_disk is not None else set(),
    }


@pytest.mark.parametrize("second", [A, B], ids=["same tenant", "another one"])
def test_two_tenants_share_no_block_on_any_tier(disk, second):
    """What the one has on any tier is nothing that the other has on any."""

    def left_by(salt):
        engine = make_engine(num_blocks=20, host_blocks=100, disk=disk())
        engine.tiers.disk.clear()
        answer(engine, "one", LONG, owner="s", salt=salt)
        answer(engine, "other", LONG[::-1], owner="t", salt=salt)
        found = kept(engine)
        assert all(found.values()), "every tier has something"
        return set.union(*found.values())

    assert len(left_by(A) & left_by(second)) == (20 if second == A else 0)


def test_what_two_tenants_ask_of_one_engine_is_there_twice():
    engine = make_engine(num_blocks=60)
    for salt in (A, B):
        answer(engine, salt.decode(), LONG, owner=salt.decode(), salt=salt)
    blocks = [block for block in engine.pool.index.values() if not block.is_tail]
    assert len(blocks) == 2 * len(LONG) // 4
    assert all(block.heads == 1 for block in blocks)
    answer(engine, "again", LONG, owner="again", salt=A)
    assert sum(block.heads == 2 for block in blocks) == len(LONG) // 4


def test_two_tenants_share_nothing_where_their_names_collide():
    engine = make_engine()
    engine._intake.hasher = lambda salt: NamedByTokens([("salt", salt)], 4)
    answer(engine, "a", LONG, salt=A)
    assert answer(engine, "b", LONG, salt=B).usage.cached_tokens == 0
