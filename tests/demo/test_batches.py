"""Batches: whole conversations, one per row, and the tokens to predict."""

from itertools import islice, pairwise
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from chatpager.demo import model_path
from chatpager.demo.batches import collate, make_round, positions
from chatpager.demo.conversations import stream
from chatpager.demo.tokenizer import PAD_ID, START_ID, Encoder


@pytest.fixture(scope="module")
def encoder():
    return Encoder(Tokenizer.from_file(str(model_path() / "tokenizer.json")))


@pytest.fixture(scope="module")
def rows(encoder):
    return encoder.encode(list(islice(stream("batches"), 12)))


def test_a_round_is_the_same_for_the_same_seed(encoder):
    first, second = (make_round(encoder, "0/1", 0.5, 1024, 512) for _ in range(2))
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].input_ids, make_round(encoder, "0/2", 0.5, 1024, 512)[0].input_ids)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_no_batch_is_larger_than_its_cells_or_its_window(encoder, progress):
    for batch in make_round(encoder, "0/1", progress, 1024, 512):
        assert batch.input_ids.numel() <= 1024
        assert batch.input_ids.shape[1] <= 512
        assert batch.input_ids.shape == batch.position_ids.shape


def test_the_curriculum_lengthens_the_conversations(encoder):
    early, late = (make_round(encoder, "0/1", p, 4096, 4096) for p in (0.0, 1.0))
    assert max(b.input_ids.shape[1] for b in early) < max(b.input_ids.shape[1] for b in late)


def test_a_row_is_one_conversation_and_padding_is_at_its_end(rows):
    batch = collate(rows, Random(0), 4096)
    for row, (ids, _) in zip(batch.input_ids.tolist(), rows, strict=True):
        assert row[: len(ids)] == ids
        assert set(row[len(ids) :]) <= {PAD_ID}


def test_targets_are_the_tokens_after_the_predicting_ones(rows):
    batch = collate(rows, Random(0), 4096)
    flat = batch.input_ids.flatten()
    assert torch.equal(flat[batch.predict + 1], batch.targets)
    assert batch.targets.numel() == sum(sum(mask) for _, mask in rows)
    assert not (batch.targets == PAD_ID).any()


def test_skipped_positions_rise_within_the_window_and_jump_only_before_messages(rows):
    ids = rows[0][0]
    jumped = 0
    for seed in range(200):
        where = positions(ids, Random(seed), 4096, len(ids))
        steps = [b - a for a, b in pairwise(where)]
        assert where[0] == 0
        assert where[-1] < 4096
        assert min(steps) == 1
        assert all(ids[i + 1] == START_ID for i, step in enumerate(steps) if step > 1)
        jumped += where != list(range(len(ids)))
    assert 20 < jumped < 90


def test_a_row_that_fills_the_window_has_plain_positions(rows):
    ids = rows[0][0]
    assert all(positions(ids, Random(i), len(ids), len(ids)) == list(range(len(ids))) for i in range(50))
