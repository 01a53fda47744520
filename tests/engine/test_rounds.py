"""Which round a request gets, whatever is begun before what."""

from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.rounds import Rounds


def test_who_comes_gets_the_earliest_round_though_a_later_one_was_begun():
    rounds = Rounds()
    assert [rounds.joined("a", 0) for _ in range(40)] == list(range(40))
    rounds.left("a")
    rounds.begun(31)
    assert rounds.joined("b", 0) == 0
    assert rounds.joined("b", 0) == 1
    assert rounds.joined("a", 0) == 40, "behind its own"


def test_of_a_tenant_that_weighs_more_so_many_are_of_one_round():
    rounds = Rounds()
    assert [rounds.joined("a", None, 3) for _ in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [rounds.joined("b", 0) for _ in range(3)] == [0, 1, 2]
    assert [rounds.joined("a", 0, 1) for _ in range(2)] == [3, 4], "it weighs less from now on"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 50)), max_size=60))
def test_of_one_tenant_the_first_comes_first_and_nobody_starts_behind_another_s_queue(steps):
    rounds, waiting = Rounds(), []
    for tenant, comes, which in steps:
        if comes or not waiting:
            earliest = min((number for _, number in waiting), default=None)
            number = rounds.joined(tenant, earliest)
            own = [n for t, n in waiting if t == tenant]
            assert number > max(own, default=-1)
            if not own and earliest is not None:
                assert number <= earliest
            waiting.append((tenant, number))
        else:
            gone, number = waiting.pop(which % len(waiting))
            rounds.left(gone)
            rounds.begun(number)
