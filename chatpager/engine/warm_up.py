"""Steps that a GPU's kernels are compiled by at the start, so that no request ever waits for a compiler.

Kernels are compiled for what their code depends on, and what that is in a step is decided where they are launched
(``kernels.cuda``), by the number of rows, how many tokens each computes, and how long contexts are. The steps here meet
every case there is; a test draws steps at random and finds no other. Compiled code is kept on disk, so that only the
first start with a model and a GPU takes long.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from chatpager.engine.block_hash import BlockHasher
from chatpager.engine.plan import Plan, Row
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.sequence import Sequence
from chatpager.engine.step_graphs import StepGraphs

log = logging.getLogger(__name__)

LAUNCHING = SamplingParams(top_p=0.9, logprobs=1, seed=0)
"""The draw with all of its kernels but one."""
DEAREST = SamplingParams(top_p=0.9, presence_penalty=0.1, logprobs=1, seed=0)
"""The draw that takes most memory."""
UNCUT = SamplingParams(seed=0)
"""The draw without top-k and top-p, which few rows may do by another."""
BLOCK = 1
"""Whose content is of no interest, and which every context of such a step consists of."""
NULL = 0
"""The block of rows that are nobody's."""


class Trial(NamedTuple):
    """``rows`` that compute ``tokens`` each, at the end of a ``context``."""

    rows: int
    tokens: int
    context: int


def trials(*, max_tokens: int, max_seqs: int, max_context: int, group: int) -> list[Trial]:
    """``group``: query heads that share keys. Short and long contexts, for these are cut into pieces; every number of
    rows of one token that is rounded to another power of two; and few tokens a row and many, since tiles differ."""
    most = min(max_tokens, max_seqs)
    rows = sorted({*(1 << i for i in range(most.bit_length())), most})
    found = [Trial(1, 1, 1), *(Trial(n, 1, max_context) for n in rows)]
    longest = min(max_tokens, max_context)
    for count in (2, 64 // group + 1, longest):
        if 1 < count <= longest:
            found += [Trial(1, count, count), Trial(1, count, max_context)]
    return list(dict.fromkeys(found))


def plan_of(trial: Trial, block_size: int, params: SamplingParams = LAUNCHING) -> Plan:
    hasher, plan, tokens = BlockHasher([], block_size), Plan(), [0] * trial.context
    table = [BLOCK] * -(-trial.context // block_size)
    for i in range(trial.rows):
        seq = Sequence(f"trial-{i}", tokens, params, hasher, max_length=trial.context + 1)
        seq.committed, seq.block_table = trial.context - trial.tokens, table
        plan.rows.append(Row(seq, trial.tokens, [seq]))
    return plan


def largest_plan(max_tokens: int, max_seqs: int, max_context: int, block_size: int) -> Plan:
    """As many sequences and tokens as a step may have, each drawn in the way that takes most memory."""
    rows = min(max_tokens, max_seqs)
    plan = Plan()
    for i in range(rows):
        count = min(max_tokens // rows + (i < max_tokens % rows), max_context)
        plan.rows += plan_of(Trial(1, count, count), block_size, DEAREST).rows
    return plan


def keep_compiled() -> None:
    """Tell Triton to keep what it compiles in this product's folder of the user's cache, unless somebody told it
    already, or there is no home."""
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not home.startswith("~"):
        os.environ.setdefault("TRITON_CACHE_DIR", str(Path(home) / "chatpager" / "triton"))


def make_ready(run: Callable[[Plan], object], tried: list[Trial], block_size: int, graphs: StepGraphs | None) -> None:
    """Run every trial and capture every graph, and tell how far that is, by a bar on a terminal and by lines of the log
    elsewhere: minutes at the first start, seconds later."""

    def done() -> Iterator[int]:
        for i, trial in enumerate(tried):
            plan = plan_of(trial, block_size)
            plan.rows[0].copy = BLOCK, NULL
            run(plan)
            if i == 0:
                run(plan_of(trial, block_size, UNCUT))
            yield i + 1
        for n in graphs.capture() if graphs else ():
            yield len(tried) + n

    total = len(tried) + (graphs.count if graphs else 0)
    log.info("compiling kernels for this GPU and capturing %d graphs", total - len(tried))
    if sys.stderr.isatty():
        _draw_bar(done(), total)
    else:
        for n in quarters(done(), total):
            log.info("%d of %d kinds of steps are ready", n, total)


def _draw_bar(done: Iterator[int], total: int) -> None:
    with tqdm(total=total, desc="compiling kernels", unit="step", file=sys.stderr) as bar:
        for n in done:
            bar.update(n - bar.n)


def quarters(done: Iterator[int], total: int) -> Iterator[int]:
    """Of the numbers that ``done`` counts up to ``total`` those at which another quarter is reached."""
    told = 0
    for n in done:
        if 4 * n // total > told:
            told = 4 * n // total
            yield n
