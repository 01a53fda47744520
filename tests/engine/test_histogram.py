"""Seconds by size: each lands in the narrowest bucket that holds it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.histogram import Histogram


@given(st.lists(st.tuples(st.floats(-1, 1e6) | st.sampled_from([0.0, 0.5, 1.0, 2.0, 8.0]), st.integers(1, 9))))
def test_each_bucket_counts_what_is_at_most_its_bound(seconds):
    histogram = Histogram(-2, 3)
    for value, count in seconds:
        histogram.add(value, count)
    found = histogram.distribution()
    assert [bound for bound, _ in found.buckets] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, math.inf]
    for bound, count in found.buckets:
        assert count == sum(n for value, n in seconds if value <= bound)
    assert found.count == sum(n for _, n in seconds)
    assert found.seconds == pytest.approx(sum(max(0.0, value) * n for value, n in seconds))
