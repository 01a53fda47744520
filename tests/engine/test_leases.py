"""What a session's head and leases keep, in which order the rest is given up, and what they may never stand in the way
of."""

import itertools

import pytest

from chatpager.engine.block import EvictionClass
from chatpager.engine.heads import TTL_CAPS, Strength
from chatpager.engine.leases import LeaseBook
from chatpager.engine.messages import LeaseRequest
from tests.engine.fakes import make_engine, request, run, step

SOFT, HARD = Strength.SOFT, Strength.HARD


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


turns = itertools.count(1)


def turn(engine, owner, prompt, count=4, clock=lambda: 0.0, salt=b""):
    """One turn of a session: the conversation's tokens after it, and the turn's usage."""
    name = f"{owner}-{next(turns)}"
    engine.add(request(name, prompt, count, owner=owner, salt=salt), clock())
    tokens, usage = list(prompt), None
    for _ in range(200):
        for output in engine.step(clock):
            tokens += output.token_ids
            usage = output.usage or usage
        engine.audit()
        if not engine.has_work:
            return tokens, usage
    raise AssertionError("does not end")


def lease(engine, owner, strength=HARD, ttl=60.0, tokens=None, now=0.0):
    """What is answered; what is told is thrown away."""
    event = engine.lease(LeaseRequest(owner=owner, strength=strength, ttl=ttl, tokens=tokens), now)
    engine.leases.take_events()
    engine.audit()
    return event


def flood(engine, blocks, first=100, clock=lambda: 0.0):
    """Prompts of one block and a bit, all different, until ``blocks`` blocks have been written."""
    for i in range(blocks):
        turn(engine, "", [first + i] * 5, 1, clock)


def cached(engine, tokens):
    """Tokens of ``tokens`` that a turn would find now."""
    engine.add(request(f"probe-{id(tokens)}", [*tokens, 1], 1), 0.0)
    seq = engine._requests[f"probe-{id(tokens)}"].seqs[0]
    found = engine.cache.peek(seq) * engine.config.block_size
    engine.cancel(seq.request_id)
    engine.step(lambda: 0.0)
    return found


class TestEvictionByClass:
    def test_what_belongs_to_no_session_goes_before_what_does(self):
        engine = make_engine(num_blocks=33, max_model_len=40)
        mine, _ = turn(engine, "s", range(20))
        flood(engine, 60)
        assert cached(engine, mine[:-1]) == 20, "the older conversation outlived sixty strangers"
        assert engine.cache.stats.evicted_blocks[EvictionClass.DEAD] > 0
        assert engine.cache.stats.evicted_blocks[EvictionClass.IDLE] == 0

    def test_what_was_hit_goes_after_what_never_was(self):
        engine = make_engine(num_blocks=12, max_model_len=16)
        turn(engine, "", [7] * 4 + [1])
        turn(engine, "", [7] * 4 + [2])
        flood(engine, 20)
        assert cached(engine, [7] * 4) == 4
        assert engine.cache.stats.evicted_blocks[EvictionClass.COLD] == 0

    def test_an_edited_away_end_goes_first(self):
        """A conversation is rewound and goes on otherwise: what it left behind is dead at once, though just used."""
        engine = make_engine(num_blocks=20, max_model_len=40)
        old, _ = turn(engine, "s", range(16))
        turn(engine, "t", range(100, 116))
        turn(engine, "s", [*range(8), *[9] * 8])
        dead = [b for b in engine.pool.index.values() if b.eviction_class is EvictionClass.DEAD]
        assert {b.tokens for b in dead} == {(8, 9, 10, 11), (12, 13, 14, 15), tuple(old[16:19])}
        flood(engine, 10)
        assert cached(engine, old) == 8
        assert cached(engine, [*range(8), *[9] * 8]) == 16

    def test_what_two_sessions_share_stays_when_one_leaves(self):
        engine = make_engine()
        shared = list(range(8))
        turn(engine, "s", [*shared, 1, 1, 1, 1, 1])
        turn(engine, "t", [*shared, 2, 2, 2, 2, 2])
        engine.cache.heads.close("s")
        classes = {b.tokens: b.eviction_class for b in engine.pool.index.values()}
        assert classes[0, 1, 2, 3] is classes[4, 5, 6, 7] is EvictionClass.IDLE
        assert classes[1, 1, 1, 1] is EvictionClass.DEAD
        engine.audit()

    def test_sessions_without_a_lease_are_forgotten_when_there_are_too_many(self):
        engine = make_engine()
        engine.cache.heads._max_heads = 2
        for owner in "abc":
            turn(engine, owner, [ord(owner)] * 5)
        assert list(engine.leases.heads) == ["b", "c"]
        lease(engine, "b", SOFT)
        turn(engine, "d", [1] * 5)
        assert list(engine.leases.heads) == ["b", "d"]


class TestLeases:
    def test_a_hard_lease_outlives_any_flood_and_ends_at_its_deadline(self, clock):
        engine = make_engine(num_blocks=33, max_model_len=40)
        mine, _ = turn(engine, "s", range(20))
        turn(engine, "t", range(100, 120))
        assert lease(engine, "s", HARD, 60).change == "granted"
        for i in range(6):
            turn(engine, f"o{i}", [200 + i] * 24, clock=clock)
        assert cached(engine, mine[:-1]) == 20
        clock.now = 60.0
        for i in range(6):
            turn(engine, f"p{i}", [300 + i] * 24, clock=clock)
        assert cached(engine, mine[:-1]) < 20
        assert [e.change for e in engine.leases.take_events()] == ["expired"]

    def test_a_soft_lease_goes_after_idle_sessions_and_its_holder_is_told(self):
        engine = make_engine(num_blocks=33, max_model_len=40)
        mine, _ = turn(engine, "s", range(20))
        lease(engine, "s", SOFT, 100)
        turn(engine, "t", range(100, 120))
        turn(engine, "u", range(200, 220))
        turn(engine, "v", range(300, 320))
        turn(engine, "w", range(400, 420))
        assert engine.leases.take_events() == []
        assert cached(engine, mine[:-1]) == 20
        lease(engine, "v", SOFT, 50)
        lease(engine, "w", SOFT, 50)
        lease(engine, "u", SOFT, 50)
        for i in range(3):
            engine.add(request(f"x{i}", [500 + i] * 24, owner=f"x{i}"), 0.0)
        run(engine)
        told = [e for e in engine.leases.take_events() if e.change == "revoked"]
        assert told[0].owner == "s", "the one with the longest time left gave way first"
        assert told[0].reason

    def test_nothing_is_kept_for_a_session_that_is_not_known(self):
        engine = make_engine()
        assert lease(engine, "nobody") is None
        engine.leases.release("nobody")
        engine.cache.heads.close("nobody")

    def test_it_follows_the_conversation(self):
        engine = make_engine()
        first, _ = turn(engine, "s", range(9))
        assert lease(engine, "s").tokens == 12
        turn(engine, "s", [*first, 1, 2, 3, 4, 5])
        assert engine.leases.heads["s"].leases[HARD].covered == 6, "five full blocks and one token"
        assert engine.pool.leased == 6

    def test_only_the_tokens_asked_for(self):
        engine = make_engine()
        turn(engine, "s", range(17))
        event = lease(engine, "s", tokens=6)
        assert (event.change, event.tokens) == ("granted", 8)
        assert lease(engine, "s", tokens=3).tokens == 8, "never shortened"
        assert lease(engine, "s").tokens == 20

    def test_a_deadline_is_never_moved_earlier_and_never_beyond_the_cap(self):
        engine = make_engine()
        turn(engine, "s", range(9))
        assert lease(engine, "s", HARD, 1e9).seconds_left == TTL_CAPS[HARD]
        event = lease(engine, "s", HARD, 5.0, now=10.0)
        assert (event.change, event.seconds_left) == ("renewed", 50.0)
        assert lease(engine, "s", HARD, 60.0, now=30.0).seconds_left == 60.0
        engine.leases.tick(60.0)
        assert engine.pool.leased, "the old deadline means nothing any more"
        engine.leases.tick(90.0)
        assert not engine.pool.leased

    @pytest.mark.parametrize("strength", [SOFT, HARD])
    def test_one_that_replaces_another_may_be_shorter_and_cover_less(self, strength):
        engine = make_engine(num_blocks=64, max_model_len=64)
        turn(engine, "s", range(20))
        whole = lease(engine, "s", strength, ttl=50)

        def replacing(ttl, tokens=None):
            request = LeaseRequest(owner="s", strength=strength, ttl=ttl, tokens=tokens, replaces=True)
            event = engine.lease(request, 0.0)
            engine.audit()
            return event.tokens, event.seconds_left

        assert replacing(20, 8) == (8, 20)
        assert replacing(30) == (whole.tokens, 30)
        assert replacing(10, 4) == (4, 10)
        assert lease(engine, "s", strength, ttl=5, tokens=8).seconds_left == 10, "an ordinary wish takes nothing away"
        engine.leases.tick(10.0)
        assert not engine.leases.heads["s"].leases
        engine.audit()

    def test_reading_does_not_revive_it(self, clock):
        engine = make_engine()
        mine, _ = turn(engine, "s", range(9))
        lease(engine, "s", SOFT, 10)
        clock.now = 9.0
        turn(engine, "other", [*mine, 5], clock=clock)
        clock.now = 10.0
        engine.step(clock)
        assert [e.change for e in engine.leases.take_events()] == ["expired"]
        assert engine.leases.heads["s"].leases == {}

    def test_released_twice_is_released_once(self):
        engine = make_engine()
        turn(engine, "s", range(9))
        lease(engine, "s")
        lease(engine, "s", SOFT)
        engine.leases.release("s")
        engine.leases.release("s")
        assert [(e.change, e.strength) for e in engine.leases.take_events()] == [("released", HARD), ("released", SOFT)]
        engine.audit()

    def test_the_next_deadline_is_told(self):
        engine = make_engine()
        assert engine.leases.next_deadline() is None
        turn(engine, "s", range(9))
        lease(engine, "s", SOFT, 30)
        lease(engine, "s", HARD, 20)
        assert engine.leases.next_deadline() == 20


class TestBudget:
    def test_what_does_not_fit_is_clipped_not_refused(self):
        engine = make_engine(num_blocks=17, max_model_len=20, lease_share=0.25)
        mine, _ = turn(engine, "s", range(19), 1)
        engine.leases.budget = 3
        event = lease(engine, "s")
        assert (event.change, event.tokens) == ("clipped", 12)
        assert engine.pool.leased == 3
        for i in range(4):
            turn(engine, f"o{i}", [200 + i] * 18, 1)
        assert cached(engine, mine[:18]) == 12

    def test_shared_blocks_are_charged_once(self):
        engine = make_engine(num_blocks=33, lease_share=0.25, max_model_len=60)
        shared = list(range(24))
        for owner in "abcd":
            turn(engine, owner, shared, 1)
            assert lease(engine, owner).tokens == 24
        assert engine.pool.leased == 6
        engine.leases.release("a")
        assert engine.pool.leased == 6
        for owner in "bcd":
            engine.leases.release(owner)
        assert engine.pool.leased == 0

    def test_the_longest_request_always_has_room(self):
        engine = make_engine(num_blocks=33, max_model_len=64, lease_share=1.0)
        assert engine.leases.budget == 32 - 16 - 1
        for i in range(4):
            turn(engine, f"s{i}", [i] * 30)
            lease(engine, f"s{i}")
        assert engine.pool.leased == engine.leases.budget
        _, usage = turn(engine, "long", [900] * 60)
        assert usage.prompt_tokens == 60
        assert not [e for e in engine.leases.take_events() if e.change == "revoked"]

    def test_none_where_the_pool_holds_no_more_than_one_request(self):
        engine = make_engine(num_blocks=10, max_model_len=64, lease_share=1.0)
        turn(engine, "s", range(9))
        assert lease(engine, "s").tokens == 0
        turn(engine, "t", range(100, 130))

    def test_tenants_share_it_equally_once_they_are_two(self):
        engine = make_engine(num_blocks=65, max_model_len=40, lease_share=0.5)
        assert engine.leases.budget == 32
        for i in range(4):
            turn(engine, f"a{i}", [i] * 36, 1, salt=b"a")
            assert lease(engine, f"a{i}").change == ("granted" if i < 3 else "clipped")
        assert engine.pool.leased == 32, "one tenant alone has all of it"
        turn(engine, "b", [5] * 36, 1, salt=b"b")
        engine.leases.take_events()
        assert lease(engine, "b").tokens == 36
        assert engine.leases.leased_by_tenant().keys() == {
            engine.leases.heads["a0"].tenant,
            engine.leases.heads["b"].tenant,
        }

    def test_tenants_end_each_others_leases_only_beyond_the_budget_and_no_more_than_it_takes(self):
        engine = make_engine(num_blocks=65, max_model_len=40, lease_share=0.5)

        def asked(owner, tenant, token):
            turn(engine, owner, [token] * 36, 1, salt=tenant)
            wish = LeaseRequest(owner=owner, strength=HARD, ttl=60.0)
            granted = engine.lease(wish, 0.0).tokens
            return granted, [e.owner for e in engine.leases.take_events() if e.change == "revoked"]

        assert asked("a0", b"a", 1) == (36, [])
        assert asked("b0", b"b", 2) == (36, [])
        assert asked("a1", b"a", 3) == (36, [])
        assert asked("a2", b"a", 4) == (20, []), "what is left of the budget"
        granted, revoked = asked("b1", b"b", 5)
        assert len(revoked) == 1
        assert revoked[0].startswith("a")
        assert granted >= 20

    def test_a_lease_that_was_clipped_to_nothing_takes_no_share(self):
        engine = make_engine(num_blocks=65, max_model_len=40, lease_share=0.5)
        turn(engine, "none", [9] * 36, 1, salt=b"c")
        engine.leases.budget = 0
        assert lease(engine, "none").tokens == 0
        engine.leases.budget = 9
        turn(engine, "a", [1] * 36, 1, salt=b"a")
        turn(engine, "b", [2] * 36, 1, salt=b"b")
        assert lease(engine, "a").tokens == 36
        assert lease(engine, "b").tokens == 36, "a holds more than half of the budget, so its lease ends"
        assert HARD not in engine.leases.heads["none"].leases

    def test_two_sessions_of_a_tenant_within_its_share_do_not_drive_each_other_out(self):
        engine = make_engine(num_blocks=33, max_model_len=40, lease_share=0.5)
        turn(engine, "a", [1] * 36, 1)
        turn(engine, "b", [2] * 36, 1)
        lease(engine, "a")
        assert lease(engine, "b").change == "clipped"
        assert [e.change for e in engine.leases.take_events()] == []
        assert engine.leases.heads["a"].leases[HARD].covered == 9


class TestProgress:
    def test_leases_beyond_the_floor_give_way_to_a_request_that_fits_no_other_way(self):
        """The budget leaves room for the longest request; here it is made too large by hand."""
        engine = make_engine(num_blocks=33, max_model_len=64)
        engine.leases.budget = 32
        for i in range(3):
            turn(engine, f"s{i}", [i] * 36, 1)
            lease(engine, f"s{i}", ttl=60 - i)
        engine.leases.take_events()
        _, usage = turn(engine, "long", [900] * 60)
        assert usage.prompt_tokens == 60
        revoked = [e.owner for e in engine.leases.take_events() if e.change == "revoked"]
        assert revoked[0] == "s0", "the longest time left gives way first"
        assert len(revoked) < 3, "and no more than it takes"

    def test_an_answer_that_grows_takes_them_too(self):
        engine = make_engine(num_blocks=17, max_model_len=60)
        engine.leases.budget = 16
        turn(engine, "s", range(33), 1)
        lease(engine, "s")
        tokens, _ = turn(engine, "t", [1] * 20, 40)
        assert len(tokens) == 60

    def test_a_poisoned_block_takes_its_lease_along(self):
        engine = make_engine()
        mine, _ = turn(engine, "s", range(9))
        lease(engine, "s")
        engine.runner.nan_for.add("bad")
        engine.add(request("bad", [*mine, 1, 2, 3]), 0.0)
        run(engine)
        assert engine.pool.leased == 0
        engine.audit()
        turn(engine, "s", [*mine, 1])
        engine.audit()


class TestLostHits:
    def test_what_was_evicted_is_named_with_when_and_by_whom(self, clock):
        engine = make_engine(num_blocks=20, max_model_len=40)
        mine, _ = turn(engine, "s", range(16), clock=clock)
        clock.now = 5.0
        for i in range(4):
            turn(engine, f"o{i}", [200 + i] * 24, clock=clock)
        clock.now = 12.0
        _, usage = turn(engine, "s", [*mine, 1], clock=clock)
        assert usage.lost is not None
        assert (usage.lost.seconds_ago, usage.lost.eviction_class) == (7.0, "idle")
        assert usage.lost.by.startswith("o")
        lost = engine.cache.stats.lost_tokens
        assert lost == 16 - usage.cached_tokens
        assert engine.stats().lost_tokens == lost

    def test_what_never_was_is_not_lost(self):
        engine = make_engine()
        _, usage = turn(engine, "s", range(16))
        assert usage.lost is None
        assert engine.cache.stats.lost_tokens == 0

    def test_twice_the_pool_would_have_kept_it(self, clock):
        engine = make_engine(num_blocks=13, max_model_len=24)
        turn(engine, "", [1] * 8 + [9], 1)
        flood(engine, 14)
        turn(engine, "", [1] * 8 + [9], 1)
        assert engine.cache.stats.lost_tokens == engine.cache.stats.lost_within_double == 8
        flood(engine, 30, first=300)
        turn(engine, "", [1] * 8 + [9], 1)
        assert engine.cache.stats.lost_tokens == 16
        assert engine.cache.stats.lost_within_double == 8

    def test_what_comes_back_is_no_ghost(self):
        engine = make_engine(num_blocks=13, max_model_len=24)
        turn(engine, "", [1] * 8 + [9], 1)
        flood(engine, 14)
        turn(engine, "", [1] * 8 + [9], 1)
        assert not any(name in engine.cache.ghosts._names for name in engine.pool.index)

    def test_the_ghosts_are_bounded(self):
        engine = make_engine(num_blocks=13, max_model_len=24)
        flood(engine, 100)
        assert len(engine.cache.ghosts) <= 4 * engine.pool.usable


def test_a_book_without_a_budget_gives_no_hard_lease():
    engine = make_engine(lease_share=0.0)
    assert isinstance(engine.leases, LeaseBook)
    turn(engine, "s", range(9))
    event = lease(engine, "s")
    assert (event.change, event.tokens) == ("clipped", 0)


def test_a_failed_turn_leaves_the_head_where_it_was():
    engine = make_engine()
    mine, _ = turn(engine, "s", range(9))
    chain = list(engine.leases.heads["s"].chain)
    engine.runner.raise_for.add("bad")
    engine.add(request("bad", [*mine, 1, 2, 3, 4, 5], owner="s"), 0.0)
    step(engine, 5)
    assert engine.leases.heads["s"].chain == chain


def test_a_cancelled_turn_moves_the_head_as_far_as_it_came():
    engine = make_engine(max_tokens=4)
    turn(engine, "s", range(9))
    engine.add(request("long", range(30), 20, owner="s"), 0.0)
    step(engine, 4)
    engine.cancel("long")
    step(engine, 1)
    assert len(engine.leases.heads["s"].chain) >= 5


class TestAccount:
    def test_a_revocation_is_forgotten_when_the_session_has_a_lease_again(self):
        engine = make_engine()
        turn(engine, "a", [1] * 20, 1)
        lease(engine, "a", SOFT)
        engine.leases.give_way()
        head = engine.leases.heads["a"]
        assert head.revoked_at == 0.0
        lease(engine, "a", SOFT, ttl=10.0, now=5.0)
        assert head.revoked_at is None

    def test_a_lease_that_covers_nothing_hides_no_earlier_end(self):
        engine = make_engine()
        turn(engine, "a", [1] * 20, 1)
        lease(engine, "a", SOFT, ttl=10.0)
        engine.leases.tick(20.0)
        head = engine.leases.heads["a"]
        assert head.expired_at == 20.0
        engine.leases.budget = 0
        assert lease(engine, "a", HARD, now=30.0).tokens == 0
        assert head.expired_at == 20.0

    def test_a_renewal_that_changes_nothing_is_not_told(self):
        engine = make_engine()
        turn(engine, "a", [1] * 20, 1)
        wish = LeaseRequest(owner="a", strength=HARD, ttl=60.0)
        assert engine.lease(wish, 0.0).change == "granted"
        assert [event.change for event in engine.leases.take_events()] == ["granted"]
        assert engine.lease(wish, 1.0).change == "renewed"
        assert engine.leases.take_events() == []

    def test_a_fork_knows_of_blocks_that_are_not_on_the_device(self):
        engine = make_engine(num_blocks=20, host_blocks=40)
        turn(engine, "a", list(range(40)), 1)
        turn(engine, "other", list(range(100, 140)), 1)
        turn(engine, "third", list(range(200, 240)), 1)
        known = engine.sessions.cache_of("a", 0.0)
        assert known.host_tokens > 0
        engine.sessions.fork("a", "b", 24)
        forked = engine.sessions.cache_of("b", 0.0)
        assert forked.tokens == 24 == forked.device_tokens + forked.host_tokens
        engine.audit()


def test_thousands_of_pins_beyond_the_budget_cost_next_to_nothing():
    """Each is asked for again at every beat, on the engine's thread."""
    engine = make_engine(num_blocks=65, max_model_len=40, lease_share=0.5)
    for i in range(6):
        turn(engine, f"s{i}", [i] * 36, 1)
        lease(engine, f"s{i}")
    counted = []
    engine.leases.leased_by_tenant = lambda: counted.append(1) or {}
    for i in range(6):
        lease(engine, f"s{i}")
    assert not counted, "alone there is nobody to share with"


def test_what_a_session_goes_back_behind_is_dead_at_once_and_its_leases_end_there():
    engine = make_engine(num_blocks=33)
    turn(engine, "a", range(24))
    turn(engine, "b", [*range(16), *range(50, 58)])
    lease(engine, "a")
    assert engine.pool.leased == 7
    engine.sessions.rewind("a", 11)
    engine.audit()
    head = engine.leases.heads["a"]
    assert (len(head.chain), len(head.proofs), head.leases[HARD].covered, engine.pool.leased) == (2, 2, 2, 2)
    classes = sorted(block.eviction_class for block in engine.pool.index.values())
    dead, tail, idle = [EvictionClass.DEAD] * 3, [EvictionClass.TAIL], [EvictionClass.IDLE] * 4
    assert classes == [*dead, *tail, *idle, *[EvictionClass.HARD] * 2]
    engine.sessions.rewind("a", 100)
    engine.sessions.rewind("nobody", 4)
    assert len(head.chain) == 2
    turn(engine, "a", [*range(11), *range(70, 79)])
    assert engine.pool.leased == 6, "the lease follows"
    engine.audit()


def test_going_back_leaves_what_is_below_the_device_where_it_belongs():
    engine = make_engine(num_blocks=20, host_blocks=64)
    turn(engine, "a", range(40))
    for i in range(3):
        turn(engine, f"f{i}", range(300 + 50 * i, 340 + 50 * i))
    proofs = list(engine.leases.heads["a"].proofs)
    engine.sessions.rewind("a", 17)
    host = engine.tiers.host
    assert [proof in host._alive for proof in proofs] == [True] * 4 + [False] * 6
    assert list(host._dead) == proofs[:3:-1]
    engine.audit()


def test_going_back_to_the_end_leaves_everything():
    engine = make_engine(num_blocks=33)
    turn(engine, "a", range(24))
    before = engine.sessions.cache_of("a", 0.0)
    engine.sessions.rewind("a", 27)
    assert engine.sessions.cache_of("a", 0.0) == before
    engine.sessions.rewind("a", 26)
    assert engine.sessions.cache_of("a", 0.0).tokens == 24, "the tail holds more than that"
    engine.audit()


def test_a_renewal_that_can_get_nothing_looks_at_no_other_lease():
    """Another tenant holds its share: what this one asks for again and again costs next to nothing."""
    engine = make_engine(num_blocks=65, max_model_len=40, lease_share=0.5)
    for i, salt in enumerate([b"a", b"b", b"b", b"b"]):
        turn(engine, f"s{i}", [i] * 36, 1, salt=salt)
        lease(engine, f"s{i}")
    looked = []
    engine.leases._idle = lambda strength: looked.append(strength) or []
    before = engine.leases.leased_by_tenant()
    lease(engine, "s3")
    assert not looked
    assert engine.leases.leased_by_tenant() == before


def test_turns_of_one_session_that_overlap_without_end_leave_it_a_head():
    engine, owner = make_engine(num_blocks=60, max_tokens=64), "t\0s"
    engine.add(request("r0", range(8), 4, owner=owner), 0.0)
    for i in range(1, 6):
        engine.add(request(f"r{i}", range(8 + i), 4, owner=owner), 0.0)
        while f"r{i - 1}" in engine._requests:
            step(engine)
        assert f"r{i}" in engine._requests or i == 5
        assert engine.sessions.cache_of(owner, 0.0).tokens


@pytest.mark.parametrize("then", ["goes on", "closes it", "erases all"])
def test_a_turn_that_ends_late_does_not_take_back_what_became_of_its_session(then):
    """Another server has taken the session over, or deleted it, while the turn of one that is gone still ran."""
    engine, owner = make_engine(num_blocks=60, host_blocks=64, max_tokens=64), "t\0s"
    engine.add(request("gone", range(12), 40, owner=owner), 0.0)
    for _ in range(5):
        step(engine)
    if then == "goes on":
        engine.add(request("new", range(20), 8, owner=owner), 0.0)
        while "new" in engine._requests:
            step(engine)
    elif then == "closes it":
        engine.sessions.close(owner)
    else:
        engine.sessions.close_all("t")
    before = engine.sessions.cache_of(owner, 0.0)
    assert (before is None) == (then != "goes on")
    engine.cancel("gone")
    assert engine.sessions.cache_of(owner, 0.0) == before
    turn(engine, owner, range(20), 8)
    assert engine.sessions.cache_of(owner, 0.0).tokens >= 24 and not engine.sessions._turns
    engine.audit()
