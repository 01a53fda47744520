"""The ledger's sums over time: nothing is counted twice, nothing is kept for ever."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.server import ledger as module
from chatpager.server.ledger import FINE_SECONDS, MINUTES, Ledger, Sums, latest


def told(ledger, at, tokens=1):
    """As a turn that ended ``at`` so many seconds and found so many tokens."""
    for buckets, seconds, kept in (
        (ledger._seconds, 1, FINE_SECONDS),
        (ledger._minutes, 60, MINUTES * 60),
    ):
        module._bucket(buckets, at // seconds * seconds, kept).add(Sums(turns=1, device_tokens=tokens))


ENDS = st.lists(st.integers(0, 100_000), min_size=1, max_size=40).map(sorted)


@given(ENDS, st.integers(0, 500))
def test_windows_and_points_hold_every_turn_of_their_time_once(ends, later):
    ledger, now = Ledger(), ends[-1] + later
    for at in ends:
        told(ledger, at)
    assert ledger.window(now * 1000, 1).turns == sum(at > now - 60 for at in ends)
    for minutes in (15, MINUTES):
        since = now // 60 * 60 - 60 * (minutes - 1)
        assert ledger.window(now * 1000, minutes).turns == sum(at >= since for at in ends)
    for seconds, step in ((120, 1), (900, 10), (86_400, 60)):
        points = ledger.points(now * 1000, seconds, step)
        since = now // step * step - seconds + step
        assert sum(sums.turns for _, sums in points) == sum(at >= since for at in ends)
        assert all(at % step == 0 and at >= since for at, _ in points)
        assert [at for at, _ in points] == sorted({at for at, _ in points})


@given(ENDS)
def test_no_more_is_kept_than_can_be_asked_for(ends):
    ledger = Ledger()
    for at in ends:
        told(ledger, at)
    assert all(at > ends[-1] - FINE_SECONDS for at, _ in ledger._seconds)
    assert len(ledger._minutes) <= MINUTES


@given(ENDS, st.data())
def test_a_restart_forgets_no_minute(ends, data):
    """The minute in which it was is the sum of both processes."""
    cut = data.draw(st.integers(0, len(ends)))
    whole, before, after = Ledger(), Ledger(), Ledger()
    for i, at in enumerate(ends):
        told(whole, at)
        told(before if i < cut else after, at)
    after.load(dict(before.minutes(0)))
    kept = ends[-1] - MINUTES * 60
    assert after.minutes(kept + 60) == whole.minutes(kept + 60)


def test_what_is_older_than_the_process_is_told_by_the_minute():
    ledger = Ledger()
    ledger.load({600: Sums(turns=3), 660: Sums(turns=2)})
    told(ledger, 730)
    assert [(at, sums.turns) for at, sums in ledger.points(740_000, 900, 10)] == [(600, 3), (660, 2), (730, 1)]


def test_a_clock_that_goes_back_loses_no_turn():
    ledger = Ledger()
    told(ledger, 1000)
    told(ledger, 900)
    assert ledger.window(1_000_000, 15).turns == 2


def test_rows_are_bounded_and_the_latest_stay(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    rows = OrderedDict()
    for name in ("a", "b", "a", "c"):
        latest(rows, name, name)
    assert list(rows) == ["a", "c"]


@pytest.mark.parametrize("minutes", [1, 15])
def test_an_empty_ledger_has_empty_windows(minutes):
    assert Ledger().window(10**12, minutes) == Sums()
