"""Front ends agree, few sessions move, loads stay within their bound: on the pure function that decides it."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.errors import ConfigError, Overloaded
from chatpager.sessions.placement import (
    Candidates,
    Heat,
    Owner,
    Placement,
    Policy,
    Replica,
    group_key,
    heated,
    place,
    session_key,
)

SESSIONS = 10_000
quick = settings(max_examples=40, deadline=None)


def replicas(count, **row):
    return [Replica(f"replica-{i}", **row) for i in range(count)]


def candidates(count, **row):
    return Candidates(replicas(count, **row), now=0.0)


def homes(found):
    """Who comes first for each session, by id."""
    return np.array([found.ids[found.first(session_key(f"session-{i}"))] for i in range(SESSIONS)])


def test_two_front_ends_place_ten_thousand_sessions_alike():
    rows = [Replica(f"replica-{i}", capacity=1 + i % 3) for i in range(7)]
    loads = {row.id: float(i % 4) for i, row in enumerate(rows)}
    one, other = Candidates(rows, now=0.0), Candidates(reversed(rows), now=0.0)

    def told(found, i, loads, owner=None):
        group = f"group-{i % 50}" if i % 3 else None
        return place(found, f"session-{i}", group=group, copies=1 + i % 4, loads=loads, now=0.0, owner=owner)

    first = [told(one, i, one.loads(loads)) for i in range(SESSIONS)]
    second = [told(other, i, other.loads(loads)) for i in range(SESSIONS)]
    assert sum(a != b for a, b in zip(first, second, strict=True)) == 0
    # Who knows other queues follows the row that the first has written.
    later = [told(other, i, np.zeros(7), placed.owner) for i, placed in enumerate(first)]
    assert sum(a.owner != b.owner for a, b in zip(first, later, strict=True)) == 0
    assert sum(told(other, i, np.zeros(7)).owner != placed.owner for i, placed in enumerate(first)) > 0


def test_versions_of_the_program_agree():
    """A change of these moves every session of a cluster that is brought up to date machine by machine."""
    found = candidates(8)
    assert [found.first(session_key(f"session-{i}")) for i in range(12)] == [3, 6, 7, 4, 6, 4, 0, 3, 3, 1, 6, 7]
    assert found.order(group_key("group")).tolist() == [0, 5, 2, 7, 3, 1, 4, 6]


@quick
@given(count=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_the_first_of_an_order_is_found_without_sorting(count, seed):
    found = Candidates([Replica(str(i), capacity=1 + i % 2 * (seed % 3)) for i in range(count)], now=0.0)
    key = session_key(str(seed))
    assert found.first(key) == found.order(key)[0]
    assert sorted(found.order(key)) == list(range(count))


@pytest.mark.parametrize("capacity", [1.0, 2.0])
@pytest.mark.parametrize("count", [2, 5, 16])
def test_who_joins_or_leaves_moves_only_what_it_gets_or_had(count, capacity):
    rows = replicas(count, capacity=3.0)
    joined = [*rows, Replica("joined", capacity=3.0 * capacity)]
    before, after = homes(Candidates(rows, 0.0)), homes(Candidates(joined, 0.0))
    moved = before != after
    assert moved.mean() <= capacity / (count + capacity) + 0.05
    assert set(after[moved]) == {"joined"}  # and the other way round, where it leaves


def test_who_drains_or_is_dead_is_left_out_and_nobody_else_s_sessions_move():
    rows = replicas(5)
    before = homes(Candidates(rows, 10.0))
    rows[1] = Replica("replica-1", draining=True)
    rows[3] = Replica("replica-3", lease_until=10.0)
    found = Candidates(rows, 10.0)
    assert found.ids == ["replica-0", "replica-2", "replica-4"]
    after = homes(found)
    assert set(before[before != after]) == {"replica-1", "replica-3"}
    with pytest.raises(Overloaded, match="draining"):
        place(Candidates(rows[1:2], 0.0), "session", loads=np.zeros(0), now=0.0)


@pytest.mark.parametrize("capacities", [[1.0] * 10, [1.0, 2.0, 3.0, 4.0]])
def test_sessions_are_spread_by_capacity(capacities):
    found = Candidates([Replica(f"replica-{i}", capacity=c) for i, c in enumerate(capacities)], 0.0)
    counts = np.array([(homes(found) == id_).sum() for id_ in found.ids])
    wanted = SESSIONS * found.shares
    assert (abs(counts - wanted) < 4 * np.sqrt(wanted)).all()
    assert counts.sum() == SESSIONS


@quick
@given(
    capacities=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=12),
    work=st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.integers(1, 50)), min_size=1, max_size=150),
    factor=st.sampled_from([1.0, 1.25, 2.0]),
    copies=st.integers(1, 4),
)
def test_nobody_gets_work_who_is_over_the_bound(capacities, work, factor, copies):
    found = Candidates([Replica(str(i).zfill(2), capacity=c) for i, c in enumerate(capacities)], 0.0)
    loads, policy = np.zeros(len(found)), Policy(factor=factor)
    for i, (group, amount) in enumerate(work):
        at = place(found, str(i), group=group, copies=copies, loads=loads, now=0.0, policy=policy).at
        assert loads[at] <= factor * loads.sum() * found.shares[at] * (1 + 1e-12)
        loads[at] += amount


def test_who_is_over_hands_on_to_the_next_in_the_order():
    found = candidates(4)
    order = found.order(group_key("group"))
    loads = np.zeros(4)
    loads[order[0]], loads[order[1]] = 30, 20
    assert place(found, "session", group="group", loads=loads, now=0.0) == Placement(
        int(order[2]), Owner(found.ids[order[2]], 0, 1, 300.0), True
    )
    allowed = Policy(allowance=20)
    assert place(found, "session", group="group", loads=loads, now=0.0, policy=allowed).at == order[1]
    alone = found.order(session_key("session"))
    loads = np.zeros(4)
    loads[alone[0]] = 1
    assert place(found, "session", loads=loads, now=0.0).at == alone[1]


def test_an_owner_keeps_its_session_while_its_lease_lives_and_it_is_the_same_process():
    rows = replicas(3)
    found, policy = Candidates(rows, 0.0), Policy(lease=10.0)
    heavy = np.array([0.0, 0.0, 100.0])
    owner = Owner("replica-2", 0, owner_epoch=7, lease_until=5.0)

    def told(at=4.0, among=found, of=owner):
        return place(among, "session", loads=heavy[: len(among)], now=at, owner=of, policy=policy)

    assert told() == Placement(2, Owner("replica-2", 0, 7, 14.0), False)
    late = told(at=5.0)
    assert late.at != 2 and late.owner.owner_epoch == 8
    assert late == told(at=5.0, of=Owner("replica-1", 0, 7, 5.0))  # who it was makes no difference then
    restarted = Candidates([*rows[:2], Replica("replica-2", epoch=1)], 0.0)
    assert told(among=restarted).owner.owner_epoch == 8
    assert told(among=Candidates(rows[:2], 0.0)).owner.owner_epoch == 8


def test_copies_of_a_hot_group_share_its_sessions():
    found = candidates(20)
    order, none = found.order(group_key("hot")).tolist(), np.zeros(20)
    for copies in (1, 2, 4):
        at = [place(found, f"s{i}", group="hot", copies=copies, loads=none, now=0.0).at for i in range(2000)]
        assert set(at) == set(order[:copies])
        counts = np.array([at.count(one) for one in order[:copies]])
        assert (abs(counts - 2000 / copies) <= 4 * sqrt(2000 / copies)).all()


def test_a_group_gets_a_copy_for_every_five_seconds_over_the_bound_and_loses_them_when_idle():
    policy = Policy(hot_after=5.0, idle_after=60.0, most_copies=3)

    def after(heat, *seen):
        for now, over in seen:
            heat = heated(heat, Placement(0, Owner("r", 0, 1, 0.0), over), now, policy)
        return heat

    assert after(Heat(), (0.0, True), (4.9, True)).copies == 1
    assert after(Heat(), (0.0, True), (4.0, False), (6.0, True)).copies == 1
    hot = after(Heat(), (0.0, True), (5.0, True))
    assert hot == Heat(2, 5.0, 5.0)
    hottest = after(hot, (9.0, True), (10.0, True), (15.0, True), (20.0, True))
    assert hottest.copies == 3
    assert after(hottest, (79.0, False)).copies == 3
    assert after(hottest, (80.0, False)) == Heat(1, None, 80.0)


def test_rows_that_cannot_be_are_refused_by_name():
    with pytest.raises(ConfigError, match="replica-0"):
        Candidates([*replicas(2), *replicas(1)], 0.0)
    with pytest.raises(ConfigError, match="capacity of replica replica-0"):
        candidates(1, capacity=0.0)
    with pytest.raises(ConfigError, match="factor"):
        Policy(factor=0.9)
