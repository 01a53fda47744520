"""Batches of whole conversations: one per row, rows of like length, so that no conversation sees another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from torch import Tensor

from chatpager.demo.conversations import MAX_TURNS, stream
from chatpager.demo.tokenizer import PAD_ID, START_ID, Encoder

ROUND = 24
"""Batches that are generated and sorted by length together."""


@dataclass(frozen=True)
class Batch:
    """``input_ids`` and ``position_ids`` are [rows, length]; ``predict`` are the flat positions whose next token the
    assistant speaks, ``targets`` those tokens."""

    input_ids: Tensor
    position_ids: Tensor
    predict: Tensor
    targets: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(t.to(device) for t in (self.input_ids, self.position_ids, self.predict, self.targets)))


def make_round(encoder: Encoder, seed: str, progress: float, tokens: int, window: int) -> list[Batch]:
    """The batches of one round, in random order; each has at most ``tokens`` cells, padding included.

    ``progress`` (0 to 1) sets the curriculum: conversations grow from 3 turns to 14 in the first third, and after it
    one in twenty-five is much longer. Deterministic in its arguments.
    """
    rng = Random(seed)
    longest = 3 + round((MAX_TURNS - 3) * min(1.0, 3 * progress))
    source = stream(f"{seed}/talk", longest=longest, long_share=0.04 if progress > 1 / 3 else 0.0)
    rows: list[tuple[list[int], list[bool]]] = []
    budget = ROUND * tokens
    while budget > 0:
        more = [(ids[:window], mask[:window]) for ids, mask in encoder.encode(list(islice(source, 64)))]
        rows += more
        budget -= sum(len(ids) for ids, _ in more)
    rows.sort(key=lambda row: len(row[0]))
    batches: list[Batch] = []
    group: list[tuple[list[int], list[bool]]] = []
    for row in rows:
        if group and len(row[0]) * (len(group) + 1) > tokens:
            batches.append(collate(group, rng, window))
            group = []
        group.append(row)
    batches.append(collate(group, rng, window))
    rng.shuffle(batches)
    return batches


def collate(rows: list[tuple[list[int], list[bool]]], rng: Random, window: int) -> Batch:
    length = max(len(ids) for ids, _ in rows)
    input_ids = torch.tensor([ids + [PAD_ID] * (length - len(ids)) for ids, _ in rows])
    spoken = torch.tensor([mask + [False] * (length - len(mask)) for _, mask in rows])
    position_ids = torch.tensor([positions(ids, rng, window, length) for ids, _ in rows])
    predict = spoken[:, 1:].nonzero()
    flat = predict[:, 0] * length + predict[:, 1]
    return Batch(input_ids, position_ids, flat, input_ids.flatten()[flat + 1])


def positions(ids: list[int], rng: Random, window: int, length: int) -> list[int]:
    """Positions for ``ids``; every fourth row skips ahead before some of its messages, so that short rows teach the
    distances of the whole window (positional skip-wise training, Zhu et al. 2023, arXiv:2309.10400)."""
    where = list(range(length))
    room = window - length
    if room <= 0 or rng.random() > 0.25:
        return where
    starts = [i for i, t in enumerate(ids) if t == START_ID][1:]
    for start in rng.sample(starts, min(len(starts), rng.randint(1, 3))):
        gap = rng.randint(0, room // 2)
        room -= gap
        where = where[:start] + [p + gap for p in where[start:]]
    return where
