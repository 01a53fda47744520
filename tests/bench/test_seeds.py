"""The yardsticks, small: that both ways of batching compute the same, and that their accounts add up."""

import json
import random
from html.parser import HTMLParser
from itertools import zip_longest

import pytest
import torch

from chatpager.bench import models, seeds, static_batching, workload
from chatpager.bench.paged_batching import PagedBatching
from chatpager.bench.seeds_rows import ROWS
from chatpager.bench.static_batching import StaticBatching
from chatpager.bench.workload import Ask, Served
from chatpager.cli.benches import bench_seeds
from chatpager.engine import loader
from chatpager.errors import ConfigError

NEAR_TIE = 1e-4
"""Of two logits."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("model")
    models.make_model("15m", found)
    return found


@pytest.fixture(scope="module")
def static(folder):
    """Two slots."""
    return StaticBatching(static_batching.load(folder, torch.device("cpu")), max_len=64, kv_tokens=130)


@pytest.fixture(scope="module")
def model(folder):
    return loader.load(folder, dtype="float32", device="cpu")


@pytest.fixture
def paged(model):
    return PagedBatching(model, max_len=64, kv_tokens=160)


def prompt(count, seed=1):
    return workload.tokens(random.Random(seed), count, 300)


def test_a_hand_made_batch_wastes_what_it_must(static):
    asks = [Ask(prompt(3), 2), Ask(prompt(5), 4), Ask(prompt(4), 1)]
    served = static.serve(asks)
    assert [len(answer) for answer in served.tokens] == [2, 4, 1]
    # A token's keys and values are there once the next one is computed; those of padding and past an end are nobody's.
    assert served.held == [3 + 5, 4 + 6, 4 + 7, 4 + 8, 4]
    assert served.reserved == [128, 128, 128, 128, 64]
    assert served.running == [2, 2, 1, 1, 1]
    assert served.waiting == [1, 1, 1, 1, 0]
    assert served.waste == pytest.approx(1 - (8 / 128 + 10 / 128 + 11 / 128 + 12 / 128 + 4 / 64) / 5)
    assert served.at_once == 1.5


def test_pages_are_taken_as_tokens_come(paged):
    served = paged.serve([Ask(prompt(30), 6)])
    assert served.held == [30, 31, 32, 33, 34, 0]
    assert served.reserved == [32, 32, 32, 48, 48, 0]
    assert served.running == [1] * 6
    assert served.waste == pytest.approx((2 / 32 + 1 / 32 + 0 + 15 / 48 + 14 / 48) / 5)
    assert all(0 < own < 1 for own in served.own)


def test_both_compute_the_same_answers(static, paged):
    asks = workload.lognormal(random.Random(3), 6, prompt_mean=12, answer_mean=6, max_len=64, vocabulary=300)
    assert len({len(ask.prompt) for ask in asks}) > 3, "lengths vary, so that there is padding"
    counted = []
    ours, theirs = paged.serve(asks, counted.append), static.serve(asks)
    assert sum(counted) >= sum(ask.tokens - 1 for ask in asks)
    for ask, a, b in zip(asks, ours.tokens, theirs.tokens, strict=True):
        assert len(a) == len(b) == ask.answer
        place = next((i for i, (x, y) in enumerate(zip_longest(a, b)) if x != y), None)
        if place is not None:
            logits = static.model(torch.tensor([[*ask.prompt, *b[:place]]])).logits[0, -1]
            assert abs(logits[a[place]] - logits[b[place]]) < NEAR_TIE
            assert logits.max() - logits[b[place]] < NEAR_TIE


@pytest.mark.parametrize("kind", ["static", "paged"])
def test_a_request_that_comes_later_waits_from_then_on(kind, request):
    engine = request.getfixturevalue(kind)
    served = engine.serve([Ask(prompt(4), 8), Ask(prompt(6, seed=2), 2, after=3)])
    assert served.times[0][2] <= served.arrived[1] <= served.times[0][3]
    began = served.times[1][0]
    assert served.first_token(1) == began - served.arrived[1] > 0
    assert (began > served.times[0][-1]) == (kind == "static"), (
        "a batch ends before the next begins, an engine's does not"
    )


def test_a_second_turn_computes_what_is_new(paged):
    counted = []
    answer = paged.serve([Ask(prompt(33), 2)]).tokens[0]
    paged.serve([Ask([*prompt(33), *answer, *prompt(5, seed=2)], 2)], counted.append)
    # The new ones, the last of the answer, one of the next; and what is left of a block.
    assert 7 <= sum(counted) <= 9


def test_the_accounts_of_a_run():
    served = Served(
        tokens=[[1, 2, 3], [4, 5, 6, 7]],
        times=[[1.0, 2.0, 4.0], [2.0, 3.0, 4.0, 5.0]],
        arrived=[0.0, 0.5],
        running=[1, 2, 2, 2, 1],
        waiting=[1, 0, 0, 0, 0],
        reserved=[10, 20, 20, 20, 0],
        held=[5, 15, 16, 17, 0],
    )
    assert served.seconds == 5.0
    assert served.rate == 7 / 5
    assert served.decode_rate == 3 / 2, "in (2, 4]: the first one's last, two of the other's"
    assert served.first_token(1) == 1.5
    assert served.gaps(0) == [1.0, 2.0]
    assert served.waste == pytest.approx((0.5 + 0.25 + 0.2 + 0.15) / 4)
    assert served.at_once == 1.0


def test_lengths_vary_about_their_means_within_the_longest():
    asks = workload.lognormal(random.Random(1), 1000, prompt_mean=100, answer_mean=50, max_len=1000, vocabulary=9)
    assert 90 < sum(len(ask.prompt) for ask in asks) / 1000 < 110
    assert 45 < sum(ask.answer for ask in asks) / 1000 < 55
    assert max(ask.tokens for ask in asks) <= 1000
    assert max(len(ask.prompt) for ask in asks) == 500
    assert {token for ask in asks for token in ask.prompt} == set(range(1, 9))


def test_memory_for_less_than_one_reservation_is_refused(static):
    with pytest.raises(ConfigError, match="one reservation of 64"):
        StaticBatching(static.model, max_len=64, kv_tokens=63)


class Cells(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [tag] if tag in ("td", "th", "svg") else []


def test_every_row_is_measured_on_both(tmp_path, capsys):
    out = tmp_path / "seeds.json"
    result = seeds.run(shape="15m", only=None, quick=True, out=str(out))
    assert json.loads(out.read_text()) == result
    assert [row["key"] for row in result["rows"]] == list(ROWS)
    rows = {row["key"]: row["figures"] for row in result["rows"]}
    assert rows["waste"]["ours"] < rows["waste"]["static"]
    assert rows["waste"]["example"] == {
        "tokens": 20, "ours_slots": 32, "static_slots": 2048, "ours": 0.375, "static": 0.9902,
    }  # fmt: skip
    assert rows["concurrency"]["static"] <= rows["concurrency"]["static_slots"] < rows["concurrency"]["ours"]
    assert rows["throughput"]["equal_answers"] > 0.5
    (ours_ms,), (static_ms,) = rows["repeat"]["ours_ms"], rows["repeat"]["static_ms"]
    assert rows["repeat"]["change"] == pytest.approx(ours_ms / static_ms - 1, abs=1e-3)
    wastes = [found["waste"] for found in rows["blocks"]["ours"].values()]
    assert list(rows["blocks"]["ours"]) == ["8", "16", "32", "64", "128", "256", "512"]
    assert wastes == sorted(wastes) and wastes[-1] > 0.9
    assert 0 < rows["short"]["own_share"] < 1
    told = capsys.readouterr().out
    assert "second-hand" in told and "static baseline" in told
    tags = Cells(out.with_suffix(".html").read_text()).found
    assert (tags.count("td"), tags.count("th"), tags.count("svg")) == (5 * len(ROWS), 5, 4)


def test_a_long_batch_does_not_make_the_ones_after_it_slower(static):
    lengths = []

    def see(model, args, kwargs):
        lengths.append(kwargs["past_key_values"].layers[0].max_cache_len)

    watching = static.model.register_forward_pre_hook(see, with_kwargs=True)
    static.serve([Ask(prompt(40), 8)])
    static.serve([Ask(prompt(4), 8)])
    watching.remove()
    assert (set(lengths[:8]), set(lengths[8:])) == ({48}, {12})


def test_rows_that_were_measured_outlive_one_that_goes_wrong(tmp_path, monkeypatch):
    def broken(measure):
        raise ZeroDivisionError

    monkeypatch.setitem(ROWS, "jitter", broken)
    out = tmp_path / "seeds.json"
    with pytest.raises(ZeroDivisionError):
        seeds.run(shape="15m", only=["short", "jitter"], quick=True, out=str(out))
    assert [row["key"] for row in json.loads(out.read_text())["rows"]] == ["short"]
    assert out.with_suffix(".html").exists()


def test_some_rows_alone_and_no_others(capsys):
    """As the command is called."""
    bench_seeds(only="short", quick=True)
    told = capsys.readouterr().out
    assert "one request at a time" in told
    assert "second turn" not in told and "block size" not in told


def test_a_row_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="waste, concurrency"):
        seeds.run(shape="15m", only=["speed"], quick=True, out=None)
