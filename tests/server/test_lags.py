"""A histogram of ours is what prometheus_client's own would have been."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from chatpager.server.lags import Lags

BOUNDS = (0.001, 0.01, 1, 2.5)
SECONDS = st.one_of(st.sampled_from((0.0, *BOUNDS)), st.floats(0, 10)).map(
    lambda seconds: round(seconds * 2**20) / 2**20
)


@given(st.lists(st.tuples(SECONDS, st.integers(1, 3))))
def test_it_shows_what_was_added(added):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    lags, reference = (
        Lags("lag_seconds", "of it", BOUNDS),
        Histogram("lag_seconds", "of it", buckets=BOUNDS, registry=theirs),
    )
    ours.register(lags)
    for seconds, count in added:
        lags.add(seconds, count)
        for _ in range(count):
            reference.observe(seconds)
    shown = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == shown
