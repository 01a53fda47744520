"""The arithmetic of streamed answers against logs made by hand."""

import random

import numpy as np
import pytest

from chatpager.bench import accounting, completions, serve
from chatpager.bench.accounting import Reading
from chatpager.bench.completions import Answer


@pytest.mark.parametrize(
    ("lengths", "tokens", "counts"),
    [
        ([3, 9, 1], 3, [1, 1, 1]),
        ([4], 4, [4]),
        ([4, 4], 8, [4, 4]),
        ([2, 8], 7, [2, 5]),
        ([5, 5, 5, 5], 2, [0, 1, 0, 1]),
    ],
)
def test_pieces_share_the_tokens(lengths, tokens, counts):
    assert completions.tokens_of_pieces(lengths, tokens) == counts


def test_no_token_is_lost_or_made_up():
    rng = random.Random(5)
    for _ in range(500):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
        tokens = rng.randint(1, 60)
        counts = completions.tokens_of_pieces(lengths, tokens)
        assert sum(counts) == tokens and min(counts) >= min(1, tokens // len(lengths))


def test_a_piece_of_several_tokens_divides_its_gap():
    assert completions.gaps([1.0, 1.5, 2.5], [1, 1, 4]) == [0.5, 0.25, 0.25, 0.25, 0.25]
    assert completions.gaps([1.0, 1.5, 2.0], [1, 0, 2]) == [0.5, 0.5]
    assert completions.gaps([1.0], [7]) == []


def answer(sent, times, tokens, cached=None, prompt=0):
    pieces = [(at, "word ") for at in times]
    return Answer(tokens, sent, times[-1], pieces, prompt, tokens, cached)


def test_an_answer_s_rate_leaves_the_first_token_out():
    one = answer(10.0, [12.0, 12.5, 13.0], 3)
    assert (one.ttft, one.decode_rate, one.gaps) == (2.0, 2.0, [0.5, 0.5])
    assert answer(10.0, [12.0, 13.0], 8).decode_rate == 4.0
    assert answer(10.0, [12.0], 8).decode_rate is None


def test_percentiles_are_numpy_s():
    rng = random.Random(6)
    for count in (1, 2, 5, 100):
        values = [rng.random() for _ in range(count)]
        for share in (0.0, 0.5, 0.95, 0.99, 1.0):
            assert completions.percentile(values, share) == pytest.approx(np.percentile(values, 100 * share))
    assert completions.percentile([], 0.5) is None


def test_the_cached_share_is_of_what_could_be_cached():
    told = [answer(0, [1], 1, cached) for cached in (50, 300, None)]
    assert completions.cached_share(told, [100, 200, 100]) == 250 / 400
    silent = [answer(0, [1], 1), answer(0, [1], 1)]
    assert completions.cached_share(silent, [100, 200]) is None
    assert completions.cached_share(told, [0, 0, 0]) is None


def test_processors_are_shared_out_between_client_server_and_others():
    before, after = Reading(1000, 400, 10, 100), Reading(1200, 540, 30, 180)
    assert accounting.shares(before, after) == {"client": 0.1, "server": 0.4, "others": 0.2}
    still = Reading(1200, 540, 30, 110)
    assert accounting.at_rest([before, before], [still, still]) and not accounting.at_rest([before] * 2, [still, after])


def test_medians_keep_the_form():
    rounds = [
        {"a": 1, "b": [1.0, 9.0], "c": {"d": None}, "e": 4},
        {"a": 5, "b": [3.0, 5.0], "c": {"d": None}, "e": None},
        {"a": 2, "b": [2.0, 7.0], "c": {"d": None}, "e": 6},
    ]
    assert serve.median(rounds) == {"a": 2, "b": [2.0, 7.0], "c": {"d": None}, "e": 5}
