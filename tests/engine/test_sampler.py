"""The sampler against direct computations in float64, and its draws against the distribution they come from."""

import math
import weakref
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine import sampler
from chatpager.engine.block_hash import BlockHasher
from chatpager.engine.sampler import sample, uniform
from chatpager.engine.sequence import SamplingParams, Sequence

VOCAB = 50
HASHER = BlockHasher([], 4)


def seq(*, prompt=(1, 2, 3), output=(), seed=0, eos=(0,), **params):
    params.setdefault("max_tokens", 100)
    s = Sequence(
        "r", list(prompt), SamplingParams(**params), HASHER, max_length=1000, eos_token_ids=frozenset(eos), seed=seed
    )
    s.token_ids += output
    return s


def logits(rows=1, seed=0, spread=2.0):
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


def draw(row, **params):
    (sampled,) = sample(row, [(0, seq(**params))])
    return sampled.token_id


def test_greedy_is_the_argmax():
    row = logits()
    assert draw(row, temperature=0.0) == row.argmax().item()


def test_a_row_may_be_sampled_more_than_once_and_rows_in_any_order():
    rows = logits(3)
    got = sample(rows, [(2, seq(temperature=0.0)), (0, seq(temperature=0.0)), (2, seq(temperature=0.0))])
    assert [s.token_id for s in got] == [rows[i].argmax().item() for i in (2, 0, 2)]


def test_nothing_to_sample():
    assert sample(torch.empty(0, VOCAB), []) == []


def test_the_same_seed_gives_the_same_token_in_any_batch():
    rows = logits(8)
    params = {"temperature": 0.8, "top_p": 0.9, "top_k": 20}
    alone = [draw(rows[i : i + 1], seed=i, **params) for i in range(8)]
    other = {"temperature": 1.5, "min_p": 0.1}
    mixed = sample(rows, [(i, seq(seed=i, **(params if i % 2 else other))) for i in range(8)])
    assert [s.token_id for s in mixed[1::2]] == alone[1::2]
    together = sample(rows, [(i, seq(seed=i, **params)) for i in reversed(range(8))])
    assert [s.token_id for s in reversed(together)] == alone


def test_another_position_draws_another_number():
    numbers = {uniform(7, position) for position in range(100)}
    assert len(numbers) == 100
    assert all(0 <= u < 1 for u in numbers)
    assert abs(sum(numbers) / 100 - 0.5) < 0.1


def frequencies(row, n=20_000, **params):
    rows = row.expand(n, -1)
    got = sample(rows, [(i, seq(seed=i, **params)) for i in range(n)])
    return torch.bincount(torch.tensor([s.token_id for s in got]), minlength=VOCAB).double() / n


def chi_square_is_small(observed, expected, n=20_000):
    """No token without probability is drawn, and the rest is within 5 sigma of chi-square's mean."""
    assert (observed[expected == 0] == 0).all()
    live = expected > 0
    chi = (n * (observed[live] - expected[live]) ** 2 / expected[live]).sum().item()
    degrees = int(live.sum()) - 1
    assert chi < degrees + 5 * math.sqrt(2 * max(degrees, 1)), (chi, degrees)


def test_draws_follow_the_softmax():
    row = logits(spread=1.0)
    chi_square_is_small(frequencies(row), row[0].double().softmax(-1))


def test_temperature():
    row = logits(spread=1.0)
    chi_square_is_small(frequencies(row, temperature=0.5), (row[0].double() / 0.5).softmax(-1))


def test_top_k():
    row = logits(spread=1.0)
    kept = row[0].topk(5).indices
    expected = torch.zeros(VOCAB, dtype=torch.double)
    expected[kept] = row[0, kept].double().softmax(-1)
    chi_square_is_small(frequencies(row, top_k=5), expected)


def test_top_p_keeps_the_fewest_that_reach_it():
    row = logits(spread=1.0)
    probs, order = row[0].double().softmax(-1).sort(descending=True)
    count = int((probs.cumsum(0) < 0.6).sum()) + 1
    expected = torch.zeros(VOCAB, dtype=torch.double)
    expected[order[:count]] = probs[:count] / probs[:count].sum()
    chi_square_is_small(frequencies(row, top_p=0.6), expected)


def test_min_p():
    row = logits(spread=1.0)
    probs = row[0].double().softmax(-1)
    expected = torch.where(probs >= 0.3 * probs.max(), probs, 0.0)
    chi_square_is_small(frequencies(row, min_p=0.3), expected / expected.sum())


def test_top_k_before_top_p():
    row = torch.full((1, VOCAB), -20.0)
    row[0, :4] = torch.tensor([2.0, 1.9, 1.8, 1.7])
    kept = row[0, :2].double().softmax(-1)
    expected = torch.zeros(VOCAB, dtype=torch.double)
    expected[:2] = kept
    chi_square_is_small(frequencies(row, top_k=2, top_p=0.99), expected)


def test_a_tiny_top_p_is_the_likeliest_token():
    row = logits()
    assert draw(row, top_p=1e-9, seed=5) == row.argmax().item()


def test_top_k_above_the_vocabulary_keeps_all():
    row = logits(spread=1.0)
    assert draw(row, top_k=VOCAB + 10, seed=3) == draw(row, top_p=1.0, seed=3)


def test_repetition_penalty_divides_what_was_seen_above_zero_and_multiplies_below():
    row = torch.full((1, VOCAB), -5.0)
    row[0, 1], row[0, 7] = 2.0, 1.5
    assert draw(row, temperature=0.0) == 1
    assert draw(row, temperature=0.0, repetition_penalty=1.5) == 7
    low = torch.full((1, VOCAB), -9.0)
    low[0, 1], low[0, 7] = -1.0, -1.2
    assert draw(low, temperature=0.0, repetition_penalty=1.5) == 7


def test_presence_and_frequency_count_the_answer_only():
    row = torch.zeros(1, VOCAB)
    row[0, 5], row[0, 6], row[0, 1] = 1.0, 0.95, 0.9
    assert draw(row, temperature=0.0, output=(5,), presence_penalty=0.2) == 6
    assert draw(row, temperature=0.0, output=(5, 6, 6), frequency_penalty=0.06) == 5
    assert draw(row, temperature=0.0, prompt=(5, 5), output=(9,), presence_penalty=2.0) == 5


def test_logit_bias_moves_tokens_and_passes_over_unknown_ones():
    row = logits()
    assert draw(row, temperature=0.0, logit_bias={9: 100.0, VOCAB + 3: 100.0}) == 9
    best = row.argmax().item()
    assert draw(row, temperature=0.0, logit_bias={best: -100.0}) != best


def test_no_end_before_min_tokens():
    row = torch.zeros(1, VOCAB)
    row[0, 0], row[0, 8], row[0, 4] = 9.0, 8.0, 7.0
    wish = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": [8, VOCAB + 1]}
    assert draw(row, **wish) == 4
    assert draw(row, **wish, output=(4,)) == 4
    assert draw(row, **wish, output=(4, 4)) == 0


def test_the_given_logits_are_left_alone():
    row = logits()
    before = row.clone()
    draw(
        row, temperature=0.7, repetition_penalty=1.3, logit_bias={3: 2.0}, top_k=4, output=(3, 4), presence_penalty=1.0
    )
    assert torch.equal(row, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_give_no_token_and_harm_no_other_row(bad):
    rows = logits(3)
    rows[1, 4] = bad
    got = sample(rows, [(i, seq(temperature=t, seed=1, logprobs=2)) for i, t in ((0, 0.0), (1, 1.0), (2, 1.0))])
    assert got[1].token_id is None
    assert got[1].logprobs is None
    assert got[0].token_id == rows[0].argmax().item()
    assert got[2].token_id == draw(rows[2:3], temperature=1.0, seed=1)


def test_a_row_that_forbids_everything_is_not_numbers():
    assert draw(torch.full((1, VOCAB), -math.inf), temperature=0.0) is None


def test_logprobs_are_the_models_own():
    row = logits()
    (sampled,) = sample(row, [(0, seq(temperature=0.3, seed=2, logprobs=3, logit_bias={5: 50.0}))])
    logs = row[0].double().log_softmax(-1)
    assert sampled.logprobs.chosen.token_id == sampled.token_id
    assert sampled.logprobs.chosen.logprob == pytest.approx(logs[sampled.token_id].item(), abs=1e-5)
    assert [t.token_id for t in sampled.logprobs.top] == logs.topk(3).indices.tolist()


def test_each_row_gets_as_many_logprobs_as_it_asked_for():
    rows = logits(3)
    got = sample(
        rows, [(0, seq(temperature=0.0, logprobs=0)), (1, seq(temperature=0.0)), (2, seq(temperature=0.0, logprobs=4))]
    )
    assert [None if s.logprobs is None else len(s.logprobs.top) for s in got] == [0, None, 4]


def test_half_precision_logits_are_sampled_in_single():
    row = logits().to(torch.bfloat16)
    assert draw(row, temperature=0.0) == row.float().argmax().item()


class TestPenaltiesGrow:
    """A penalised sequence's tokens are looked at once each, and the outcome is that of looking at all of them."""

    def reference(self, row, s):
        """The penalties from scratch, with plain Python containers."""
        p, row = s.params, row.clone()
        if p.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(s.token_ids)))
            values = row[seen]
            row[seen] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
        counts = Counter(s.token_ids[s.num_prompt_tokens :])
        losses = [p.presence_penalty + p.frequency_penalty * n for n in counts.values()]
        if counts and (p.presence_penalty or p.frequency_penalty):
            row[list(counts)] -= torch.tensor(losses)
        return row

    @settings(max_examples=80, deadline=None)
    @given(
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60),
        steps=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=40), max_size=6),
        repetition=st.sampled_from([1.0, 1.1, 0.7, 1.9]),
        presence=st.sampled_from([0.0, 0.3, -1.1]),
        frequency=st.sampled_from([0.0, 0.1, -0.7]),
    )
    def test_they_are_exactly_those_of_the_whole_context(self, prompt, steps, repetition, presence, frequency):
        wish = {
            "repetition_penalty": repetition,
            "presence_penalty": presence,
            "frequency_penalty": frequency,
        }
        s = seq(prompt=prompt, **wish)
        seqs = [s]
        for i, new in enumerate(steps):
            if i == 2:
                seqs.append(s.fork(1, 9))  # its own tokens from here on
            seqs[-1].token_ids += new
            rows = logits(len(seqs), seed=i)
            shaped = sampler._shape(rows, seqs, [len(s) for s in seqs])
            assert torch.equal(shaped, torch.stack([self.reference(r, q) for r, q in zip(rows, seqs, strict=True)]))
            assert torch.equal(
                sampler._shape(rows, seqs, [len(s) for s in seqs]), shaped
            )  # a step that is computed again

    def test_a_step_looks_only_at_what_is_new(self):
        s = seq(prompt=range(1, 40), repetition_penalty=1.2, frequency_penalty=0.1)
        s.token_ids = Counted(s.token_ids)
        sample(logits(), [(0, s)])
        assert s.token_ids.read == 39
        for i in range(30):
            s.token_ids.append(i)
            sample(logits(), [(0, s)])
        assert s.token_ids.read == 69

    def test_nothing_is_kept_for_a_sequence_without_penalties_or_after_its_end(self):
        plain, penalised = seq(logit_bias={3: 1.0}), seq(repetition_penalty=1.2)
        sample(logits(2), [(0, plain), (1, penalised)])
        assert plain.history is None
        kept = weakref.ref(penalised.history)
        assert kept() is not None
        del penalised
        assert kept() is None


class Counted(list):
    """A list that counts the items read out of it."""

    read = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        self.read += len(found) if isinstance(key, slice) else 1
        return found

    def __iter__(self):
        self.read += len(self)
        return super().__iter__()
