"""Places that tenants share: whoever fills them leaves room for others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.errors import Overloaded, RateLimited
from chatpager.sessions.fair_places import AHEAD, FairPlaces


def filled(places, *tenants):
    """What each of the tenants has when they take in turn until none gets any more."""
    has = dict.fromkeys(tenants, 0)
    wanting = list(tenants)
    while wanting:
        for tenant in list(wanting):
            try:
                places.take(tenant)
                has[tenant] += 1
            except (Overloaded, RateLimited):
                wanting.remove(tenant)
    return has


def test_one_alone_leaves_a_fifth():
    places = FairPlaces(1000, called="x")
    assert filled(places, "a") == {"a": 800}
    with pytest.raises(RateLimited) as refused:
        places.take("a")
    assert refused.value.retry_after > 0 and refused.value.status == 429
    places.take("b")


def test_many_at_once_are_no_way_around_it():
    places = FairPlaces(64, called="x")
    with pytest.raises(RateLimited):
        places.take("a", 64)
    places.take("a", 4)
    assert FairPlaces(1, called="x").take("a") is None, "the only one there is"


def test_several_have_the_same():
    assert filled(FairPlaces(900, called="x"), "a", "b") == {"a": 400, "b": 400}


def test_who_comes_late_finds_room_and_more_of_it_when_others_leave():
    places = FairPlaces(1000, called="x")
    filled(places, "a")
    assert filled(places, "b")["b"] == 160
    for _ in range(400):
        places.give_back("a")
    assert filled(places, "b")["b"] + 160 > 400
    assert filled(places, "c")["c"] > 0


def test_a_number_for_each():
    places = FairPlaces(1000, 3, called="things are open")
    assert filled(places, "a", "b") == {"a": 3, "b": 3}
    with pytest.raises(
        RateLimited, match=r"^3 of this tenant's at most 3 things are open; try again when there are fewer$"
    ):
        places.take("a")


def test_what_is_full_is_full_for_all():
    places = FairPlaces(2, called="things are open")
    assert filled(places, "a") == {"a": 2}
    for tenant in "ab":
        with pytest.raises(Overloaded, match=r"^2 of at most 2 things are open; try again when there are fewer$"):
            places.take(tenant)


@given(
    total=st.integers(1, 60),
    each=st.none() | st.integers(1, 60),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.booleans()), max_size=80),
)
def test_whatever_comes(total, each, steps):
    """What is taken is what was given; a refusal takes nothing; and who has nothing is refused one only if all are
    taken."""
    places, held = FairPlaces(total, each, called="x"), {"a": [], "b": [], "c": []}
    for tenant, count, leaves in steps:
        if leaves and held[tenant]:
            places.give_back(tenant, held[tenant].pop())
            continue
        before = {name: sum(counts) for name, counts in held.items()}
        free = total - sum(before.values())
        try:
            places.take(tenant, count)
        except Overloaded:
            assert count > free
        except RateLimited:
            too_many = each is not None and before[tenant] + count > each
            ahead = each is None and before[tenant] + count > max(1, AHEAD * (free - count + 1))
            assert too_many or ahead
        else:
            held[tenant].append(count)
            assert count <= free and (each is None or before[tenant] + count <= each)
        assert places.taken == sum(map(sum, held.values())) <= total
