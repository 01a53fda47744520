import timeit
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.sessions.receipt import KeyDomain, common_prefix, receipt

LONG = list(range(40))


def account(prompt, cached, previous, *, committed=None, caching=True, block_size=16):
    committed = len(prompt) if committed is None else committed
    return receipt(prompt, cached, committed, previous, block_size=block_size, caching=caching, template="exact")


@pytest.mark.parametrize(
    ("prompt", "cached", "previous", "reason", "at", "attainable"),
    [
        (LONG, 0, None, "cold", None, 0),
        (LONG, 15, None, "cold", None, 15),  # the beginning that every prompt has
        (LONG, 16, None, "cold", None, 16),  # behind somebody else's prefix
        (LONG, 39, None, None, None, 39),
        (LONG, 35, LONG[:35], None, None, 35),
        (LONG, 32, LONG[:35], "sub_block", None, 35),
        (LONG, 32, LONG[:32], None, None, 32),
        (LONG, 16, LONG[:35], "evicted", None, 35),
        (LONG, 0, LONG[:35], "evicted", None, 35),
        (LONG, 0, LONG[:10], "sub_block", None, 10),
        (LONG, 20, [*LONG[:20], 99, *LONG[21:35]], "diverged", 20, 20),
        (LONG, 16, [*LONG[:20], 99, *LONG[21:35]], "diverged", 20, 20),
        (LONG, 0, [*LONG[:20], 99, *LONG[21:35]], "evicted", None, 20),
        (LONG, 0, [99], "diverged", 0, 0),
        (LONG, 39, [99], None, None, 39),  # diverged, but somebody else's turn had all of it
        (LONG[:16], 0, LONG[:16], "sub_block", None, 15),
        (LONG[:16], 15, LONG[:16], None, None, 15),  # the last token is always computed
    ],
)
def test_the_reason_says_why_not_more(prompt, cached, previous, reason, at, attainable):
    r = account(prompt, cached, previous)
    assert (r.miss_reason, r.diverged_at, r.attainable_tokens) == (reason, at, attainable)


HERE = KeyDomain("model", "salt")


@pytest.mark.parametrize(
    ("earlier", "previous", "ours", "reason"),
    [
        (None, LONG[:35], False, "lost"),  # a receipt of a version that did not say
        (HERE, LONG[:35], False, "lost"),
        (KeyDomain("model", "other"), LONG[:35], False, "salt"),
        (KeyDomain("other", "salt"), LONG[:35], False, "fingerprint"),
        (KeyDomain("other", "other"), LONG[:35], False, "fingerprint"),
        (KeyDomain("other", "other"), None, False, "fingerprint"),  # another vocabulary too
        (KeyDomain("other", "salt"), [99], False, "diverged"),  # and would have without it
        (None, LONG[:35], True, "evicted"),
    ],
)
def test_what_was_kept_in_another_domain_is_told(earlier, previous, ours, reason):
    more = {"block_size": 16, "caching": True, "template": "exact"}
    r = receipt(LONG, 0, 40, previous, computed_here=ours, domain=HERE, earlier=earlier, **more)
    assert (r.miss_reason, r.domain) == (reason, HERE)
    whole = receipt(LONG, 39, 40, previous, computed_here=ours, domain=HERE, earlier=earlier, **more)
    assert whole.miss_reason is None, "somebody else's blocks had all of it"


def test_without_a_cache_the_reason_is_that():
    assert account(LONG, 0, LONG[:35], caching=False).miss_reason == "disabled"


@pytest.mark.parametrize(("committed", "computed"), [(16, 0), (20, 4), (40, 24), (57, 24)])
def test_of_a_prompt_that_was_left_only_what_was_computed_counts(committed, computed):
    r = account(LONG, 16, None, committed=committed)
    assert (r.prompt_tokens, r.device_tokens, r.computed_tokens) == (40, 16, computed)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=60),
    st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=60)),
    st.integers(0, 59),
)
def test_the_sources_sum_to_the_prompt_and_nothing_is_missed_without_a_reason(prompt, previous, cached):
    size = 4
    cached = min(cached, len(prompt) - 1)
    r = account(prompt, cached, previous, block_size=size)
    assert r.device_tokens + r.host_tokens + r.disk_tokens + r.computed_tokens == r.prompt_tokens == len(prompt)
    assert r.device_tokens <= r.attainable_tokens < len(prompt)
    if r.device_tokens < r.attainable_tokens // size * size:
        assert r.miss_reason == "evicted"
    elif r.device_tokens < r.attainable_tokens:
        assert r.miss_reason in ("sub_block", "diverged")
    if r.device_tokens == len(prompt) - 1 > 0:
        assert r.miss_reason is None


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_the_common_prefix_is_the_longest(a, b):
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_a_long_prompt_is_not_compared_token_by_token():
    prompt = list(range(100_000))
    previous = array("I", prompt)

    def one_by_one():
        return sum(x == y for x, y in zip(prompt, previous, strict=True))

    assert one_by_one() == common_prefix(prompt, previous) == len(prompt)
    fast, slow = (
        min(timeit.repeat(f, number=1, repeat=5)) for f in (lambda: common_prefix(prompt, previous), one_by_one)
    )
    assert fast < slow / 2
