"""The steps of a start launch every kernel that any step may launch; dispatch is the real one, only nothing runs."""

import io
import logging
import os
import random
import sys

import pytest
import torch

from chatpager.engine.sampler import draw_on_device
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.warm_up import LAUNCHING, UNCUT, Trial, keep_compiled, make_ready, plan_of, quarters, trials
from chatpager.kernels import cuda, cuda_sampling
from chatpager.kernels.arguments import SharedPrefix, check
from chatpager.kernels.heuristics import shares_prefix

HOPPER = 132, 232_448
SIZES = [(8192, 256, 32_768), (64, 20, 160), (2048, 100, 300), (16, 16, 2000)]


class Recorder:
    def __init__(self, seen, name):
        self.seen, self.name = seen, name

    def __getitem__(self, grid):
        def launch(*args, **named):
            code = {n: value for n, value in named.items() if n.isupper() or n in ("num_warps", "num_stages")}
            self.seen.add((self.name, *sorted(code.items())))

        return launch


@pytest.fixture
def launched(monkeypatch):
    """What ``attend`` on a Hopper would launch, with its constants."""
    seen = set()
    for name in ("decode_kernel", "extend_kernel", "merge_kernel", "plan_kernel", "prefix_kernel"):
        monkeypatch.setattr(cuda, name, Recorder(seen, name))
    monkeypatch.setattr(cuda, "_device_limits", lambda _: HOPPER)

    def kernels(trial, shape, window, members=None):
        seen.clear()
        attend(trial, shape, window)
        members, tokens = members or trial.rows, (trial.context - 1) // 16 * 16
        heads, kv_heads, dim = shape
        alike = window is None and trial.tokens == 1
        if alike and shares_prefix(members, tokens, heads // kv_heads, 2 * kv_heads * dim * 2):
            attend(trial, shape, window, members)
        return set(seen)

    return kernels


def attend(trial, shape, window, members=0):
    """``members``: rows, the first ones, that share a prefix."""
    heads, kv_heads, dim = shape
    tokens = trial.rows * trial.tokens
    pages = torch.empty(2, 16, kv_heads, dim, dtype=torch.float16)
    query = torch.empty(1, 1, dim, dtype=torch.float16).expand(tokens, heads, dim)
    options = {"sliding_window": window, "out": query}
    if members:
        numbers = ([0, members], range(members), [trial.context - 1], [0] * trial.rows)
        numbers = [torch.tensor(list(part), dtype=torch.int32) for part in numbers]
        options |= {"shared": SharedPrefix(*numbers, longest=trial.context - 1)}
    if trial.tokens > 1:
        start = torch.arange(trial.rows + 1, dtype=torch.int32) * trial.tokens
        options |= {"query_start": start, "max_query_len": trial.tokens}
    tables = torch.ones(1, 1, dtype=torch.int32).expand(trial.rows, -(-trial.context // 16))
    lengths = torch.full((trial.rows,), trial.context, dtype=torch.int32)
    call = check(query, pages, pages, tables, lengths, 16, trial.context, return_lse=False, **options)
    cuda.attend(call)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("shape", [(32, 8, 128), (16, 16, 64), (64, 8, 128), (8, 1, 64)])
@pytest.mark.parametrize("window", [None, 100])
def test_they_meet_every_case(launched, sizes, shape, window):
    tokens, seqs, context = sizes
    known = set()
    for trial in trials(max_tokens=tokens, max_seqs=seqs, max_context=context, group=shape[0] // shape[1]):
        known |= launched(trial, shape, window)
    rng = random.Random(0)
    for _ in range(60):
        length = int(context ** rng.random())
        count = rng.choice([1, min(length, int(tokens ** rng.random()))])
        trial = Trial(rng.randint(1, max(1, min(seqs, tokens // count))), count, max(length, count))
        assert launched(trial, shape, window, rng.randint(1, trial.rows)) <= known, trial


class Specialised(Recorder):
    """Beside the constants, what Triton compiles other code for: numbers and places that 16 divides, and a one."""

    def __init__(self, seen, name):
        super().__init__(seen, name)
        kernel = getattr(cuda_sampling, name)
        self.arguments = kernel.arg_names
        options = getattr(kernel, "kwargs", None) or vars(kernel)  # of the interpreter's, and of a GPU's
        self.loose = {*(options["do_not_specialize"] or ()), *(options["do_not_specialize_on_alignment"] or ())}

    def __getitem__(self, grid):
        def launch(*args, **named):
            code = {n: value for n, value in named.items() if n.isupper() or n in ("num_warps", "num_stages")}
            for name, value in zip(self.arguments, args, strict=False):
                place = value.data_ptr() if isinstance(value, torch.Tensor) else value
                if name not in self.loose:
                    code[name] = place % 16 == 0, place == 1
            self.seen.add((self.name, *sorted(code.items())))

        return launch


DRAWS = [LAUNCHING, UNCUT, SamplingParams(top_k=5, seed=1), SamplingParams(min_p=0.1, seed=2)]


@pytest.mark.parametrize("vocabulary", [151_936, 32_000])
def test_they_meet_every_draw(monkeypatch, vocabulary):
    """Whose rules are rows of two tensors, so that where most begin depends on how many rows there are."""
    seen = set()
    for name in ("peak", "cut", "look", "settle", "mass", "pick"):
        monkeypatch.setattr(cuda_sampling, f"{name}_kernel", Specialised(seen, f"{name}_kernel"))

    def drawn(trial, params):
        seen.clear()
        draw_on_device(torch.empty(trial.rows, vocabulary), [row.seq for row in plan_of(trial, 16, params).rows])
        return set(seen)

    tried = trials(max_tokens=2048, max_seqs=40, max_context=64, group=4)
    known = drawn(tried[0], UNCUT).union(*(drawn(trial, LAUNCHING) for trial in tried))
    assert len({launch[0] for launch in known}) == (6 if vocabulary > 1 << 16 else 4)
    for rows in range(1, 41):
        for params in DRAWS:
            assert drawn(Trial(rows, 1, 5), params) <= known, (rows, params)


def test_a_plan_has_the_tokens_and_draws_by_chance():
    plan = plan_of(Trial(3, 2, 17), 16)
    assert [(row.start, row.count, list(row.seq.block_table)) for row in plan.rows] == [(15, 2, [1, 1])] * 3
    assert not plan.rows[0].seq.params.greedy


def test_blocks_are_copied_too():
    """As for a second answer to one prompt, which would wait for the compiler."""
    plans = []
    make_ready(plans.append, [Trial(2, 1, 17)], 16, None)
    assert [row.copy for row in plans[0].rows] == [(1, 0), None]
    assert [plan.rows[0].seq.params.is_cut for plan in plans] == [True, False], "which few rows do by other kernels"


def test_trials_fit_a_step_and_a_context():
    for tokens, seqs, context in SIZES:
        for trial in trials(max_tokens=tokens, max_seqs=seqs, max_context=context, group=4):
            assert trial.rows * trial.tokens <= tokens and trial.rows <= seqs
            assert trial.tokens <= trial.context <= context


def test_what_is_compiled_is_kept_in_the_users_cache_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    keep_compiled()
    assert os.environ["TRITON_CACHE_DIR"] == "/elsewhere"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    keep_compiled()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "chatpager" / "triton")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO], ids=["a terminal", "a file"])
def test_progress_is_a_bar_on_a_terminal_and_lines_of_the_log_elsewhere(stream, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", stream())
    with caplog.at_level(logging.INFO, logger="chatpager"):
        make_ready(lambda _: None, [Trial(1, 1, n) for n in range(1, 9)], 16, None)
    drawn, lines = sys.stderr.getvalue(), [line for line in caplog.messages if "kinds of steps are ready" in line]
    assert ("compiling kernels: 100%" in drawn and "8/8" in drawn) is (stream is Terminal)
    assert len(lines) == (0 if stream is Terminal else 4)


def test_progress_is_told_four_times():
    assert list(quarters(iter(range(1, 11)), 10)) == [3, 5, 8, 10]
    assert list(quarters(iter(range(1, 3)), 2)) == [1, 2]
