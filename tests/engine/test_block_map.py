"""Who takes the marks away and looks at no other block knows what every block is."""

import random

import pytest

from chatpager.engine.block import EvictionClass
from chatpager.engine.block_map import CODES, MOST_SESSIONS, MOST_TAKERS, BlockCode, block_facts, code_of, take_changes
from chatpager.engine.heads import Strength
from chatpager.engine.messages import LeaseRequest
from chatpager.engine.residence import leased_sessions, residences
from tests.engine.fakes import answer, make_engine, request


def truth(engine):
    return {b.id: (code_of(b), b.parent.id if b.parent else 0) for b in engine.pool.blocks[1:]}


def follow(engine, known, most=7, by=""):
    while changes := take_changes(engine.pool, most, by):
        assert len(changes) <= most
        known |= {block: (code, parent) for block, code, parent in changes}
    return known


@pytest.mark.parametrize("seed", range(12))
def test_marks_miss_nothing_whatever_happens(seed):
    draw = random.Random(seed)
    engine = make_engine(num_blocks=draw.choice([18, 25, 60]), host_blocks=draw.choice([0, 8]))
    owners = [f"t\0s{i}" for i in range(5)]
    known, now = follow(engine, {}), 0.0
    others = {}
    """Of another who takes, who comes late and seldom."""
    seen = set()
    for i in range(120):
        now += draw.random()
        owner = draw.choice(owners)
        match draw.randrange(10):
            case 0 | 1:
                prompt = [draw.randrange(3), *range(draw.randrange(4, 30))]
                engine.add(request(f"r{i}", prompt, draw.randrange(1, 9), owner=draw.choice([owner, ""])), now)
            case 2:
                strength = draw.choice(list(Strength))
                engine.lease(LeaseRequest(owner=owner, strength=strength, ttl=draw.choice([1.0, 30.0])), now)
            case 3:
                engine.leases.release(owner)
            case 4:
                engine.sessions.fork(owner, draw.choice(owners))
            case 5:
                engine.sessions.rewind(owner, draw.randrange(20))
            case 6:
                engine.sessions.close(owner)
            case 7:
                engine.cancel(f"r{i - draw.randrange(9)}")
            case _:
                for _ in range(draw.randrange(1, 6)):
                    engine.step(lambda now=now: now)
        assert follow(engine, known) == truth(engine)
        if i % 40 == 30:
            assert follow(engine, others, by="b") == truth(engine)
        seen |= {code for code, _ in known.values()}
    assert len(seen) >= 6, seen


def test_of_many_who_take_the_one_that_came_longest_ago_is_told_everything_again():
    engine = make_engine(num_blocks=18)
    for name in range(MOST_TAKERS + 1):
        assert len(take_changes(engine.pool, 100, str(name))) == 17
    assert take_changes(engine.pool, 100, "1") == []
    assert len(take_changes(engine.pool, 100, "0")) == 17 == len(take_changes(engine.pool, 100, "2"))
    assert len(engine.pool.untold) == MOST_TAKERS


def test_every_class_has_a_code_of_its_own():
    assert [CODES[kind] for kind in EvictionClass] == [code for code in BlockCode if code >= BlockCode.DEAD]


def test_a_block_is_told_with_who_contains_it():
    engine = make_engine(num_blocks=60)
    for i in range(MOST_SESSIONS + 2):
        answer(engine, f"r{i}", range(20), owner=f"t\0s{i}")
    block = next(b for b in engine.pool.blocks if b.hash is not None and b.depth == 1)
    facts = block_facts(engine.pool, engine.leases, block.id, block.used_at + 5.0)
    assert (facts.hash, facts.parent, facts.depth) == (block.hash.hex(), block.parent.id, 1)
    assert (facts.heads, len(facts.sessions)) == (MOST_SESSIONS + 2, MOST_SESSIONS)
    assert set(facts.sessions) <= engine.leases.heads.keys()
    assert (facts.code, facts.refs, facts.unused_seconds) == ("idle", 0, 5.0)
    free = next(b for b in engine.pool.blocks[1:] if b.hash is None)
    assert block_facts(engine.pool, engine.leases, free.id, 9.0).sessions == []
    for missing in (0, -1, 60):
        assert block_facts(engine.pool, engine.leases, missing, 9.0) is None


def test_leases_are_told_hard_ones_first_and_of_these_what_ends_first():
    engine = make_engine(num_blocks=60)
    for i in range(4):
        answer(engine, f"r{i}", [i, *range(12)], owner=f"t\0s{i}")
    for i, (strength, ttl) in enumerate([("soft", 5.0), ("hard", 9.0), ("hard", 7.0), ("soft", 3.0)]):
        engine.lease(LeaseRequest(owner=f"t\0s{i}", strength=Strength(strength), ttl=ttl), 1.0)
    told = leased_sessions(engine.leases, engine.pool, 3, 4)
    assert [session.owner for session in told.sessions] == ["t\0s2", "t\0s1", "t\0s3"]
    assert (told.hard, told.soft, told.budget) == (2, 2, engine.leases.budget)
    assert told.leased_blocks == engine.pool.leased > 0
    assert told.sessions[0].leases[0].seconds_left == pytest.approx(7.0)
    [known] = residences(engine.leases, ["t\0s1", "t\0nobody"], 4)
    assert known.owner == "t\0s1" and 0 < known.device_tokens <= known.tokens
