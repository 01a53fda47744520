"""What a graph would capture computes what a step does, follows its buffers, and asks the device for nothing; without a
GPU a "replay" is to compute it again."""

import math

import numpy
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chatpager.config import EngineConfig
from chatpager.engine import attention, cpu_modules, cpu_stack, step_graphs
from chatpager.engine.engine import Engine
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from chatpager.engine.sampler import sample
from chatpager.engine.step_graphs import MOST_ROWS, Kind, bucket_of, buckets, can_be_captured, kind_of
from chatpager.kernels import cuda_sampling
from tests.engine.test_overlap import Workload
from tests.engine.test_sampler import seq

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _interpreted():
    with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield


@pytest.fixture
def runner(tiny_model, monkeypatch):
    """Of a CPU, with graphs that are computed."""
    monkeypatch.setattr(ModelRunner, "_has_graphs", True)
    monkeypatch.setattr(step_graphs.StepGraphs, "_replay", step_graphs.StepGraphs.compute)

    def made(architecture="llama", **settings):
        config = EngineConfig(
            model=str(tiny_model(architecture)), dtype="float32", device="cpu", block_size=8,
            **{"num_kv_blocks": 24, "max_model_len": 80, "max_num_seqs": 6, "num_threads": 1} | settings,
        )  # fmt: skip
        of = ModelRunner(config)
        of._graphs = of._step_graphs() if of._has_graphs else None
        return of

    return made


def decoding(of, lengths, table=0, **params):
    """Sequences that have computed all but their last token, one behind the other in the pool."""
    rows = []
    for i, length in enumerate(lengths):
        s = seq(prompt=[(7 * i + j) % 200 + 2 for j in range(length)], **{"temperature": 0.0} | params)
        blocks = -(-length // of.block_size)
        s.block_table = list(range(table + 1, table + 1 + blocks))
        table += blocks
        of.run(Plan([Row(s, length - 1, [])])) if length > 1 else None
        s.committed = length - 1
        rows.append(Row(s, 1, [s]))
    return Plan(rows)


def test_buckets_are_never_much_larger_than_what_they_hold():
    assert buckets(1) == [1]
    assert buckets(6) == [1, 2, 4, 6]
    assert buckets(20) == [1, 2, 4, 8, 16, 20]
    assert buckets(256)[-3:] == [224, 240, 256] and len(buckets(256)) == 23
    assert buckets(5000)[-1] == MOST_ROWS
    for most in (1, 3, 64, 100, 257, 512):
        sizes = buckets(most)
        assert sizes == sorted(set(sizes)) and sizes[-1] == most
        for count in range(1, most + 1):
            size = next(size for size in sizes if size >= count)
            assert size - count <= max(1, count // 2, 7)


def test_only_steps_of_one_token_each_are_for_graphs():
    def plan(*rows):
        return Plan([Row(s := seq(), count, [s] * samples, copy) for count, samples, copy in rows])

    sizes = [1, 2, 4]
    assert [bucket_of(plan(*[(1, 1, None)] * n), sizes) for n in range(6)] == [None, 1, 2, 4, 4, None]
    for other in ((2, 1, None), (1, 0, None), (1, 2, None), (1, 1, (3, 4))):
        assert bucket_of(plan((1, 1, None), other), sizes) is None


def test_a_row_decides_how_much_of_the_draw_is_in_the_graph(runner):
    of = runner()

    def kind(*params):
        plan = Plan([Row(s := seq(**p), 1, [s], start=2) for p in params])
        for row in plan.rows:
            row.seq.block_table = [1]
        return kind_of(of._builder.build_padded(plan, {}, 4))

    assert kind({"temperature": 0.0}, {"temperature": 0.0}) is Kind.GREEDY
    assert kind({"temperature": 0.0, "top_p": 0.5}, {"temperature": 0.5}) is Kind.DRAWN
    assert kind({"temperature": 0.0}, {"temperature": 0.5, "top_k": 3}) is Kind.CUT
    for ruled in ({"logprobs": 0}, {"presence_penalty": 0.5}, {"logit_bias": {1: 2.0}}, {"min_tokens": 2}):
        assert kind({"temperature": 0.0}, ruled) is Kind.LOGITS


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_padded_rows_change_nothing(runner, architecture):
    of = runner(architecture)
    plan = decoding(of, [1, 9, 24])
    with torch.inference_mode():
        plain = of.forward(of._builder.build(plan)).clone()
        padded = of._logits(of._builder.build_padded(plan, {}, 6), of._workspace)
    torch.testing.assert_close(padded[:3], plain, rtol=1e-5, atol=1e-5)
    assert padded.shape[0] == 6 and torch.isfinite(padded).all()


@pytest.mark.parametrize("params", [{}, {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 3}, {"logprobs": 1}])
def test_it_follows_its_buffers(runner, params):
    """Another step's numbers in the same places give that step's tokens: nothing of the first is in it."""
    of = runner()
    for lengths, table in (([5, 17], 0), ([30, 2, 8], 4), ([1], 12)):
        plan = decoding(of, lengths, table, **params)
        for i, row in enumerate(plan.rows):
            row.seq.seed = i
        with torch.inference_mode():
            expected = sample(
                of.forward(of._builder.build(plan)).clone(), [(i, r.seq) for i, r in enumerate(plan.rows)]
            )
        told = of.launch(plan)()
        assert [s.token_id for s in told] == [s.token_id for s in expected]
        assert of._graphs.drawn[: len(lengths)].tolist() == [s.token_id for s in told]


def test_rows_whose_draw_nobody_reads_are_not_cut(runner):
    """Neither greedy ones nor those that fill a step up, whatever an earlier step left there: a cut takes most of the
    time of a draw."""
    of = runner()
    cutting = {"top_p": 0.5, "top_k": 3, "min_p": 0.1}
    floats, whole = of._builder.rules()
    of._graphs.build(decoding(of, [3] * 4, temperature=0.7, **cutting), {}, 4)
    assert floats[1, :4].tolist() == [0.5] * 4 and whole[2, :4].tolist() == [3] * 4
    greedy = decoding(of, [3], 5, temperature=1e-6, **cutting).rows
    of._graphs.build(Plan([*decoding(of, [3], 4, temperature=0.7, **cutting).rows, *greedy]), {}, 4)
    assert floats[:, 0].tolist() == pytest.approx([0.7, 0.5, math.log(0.1)])
    assert floats[:, 1:4].tolist() == [[0.0] * 3, [1.0] * 3, [-math.inf] * 3] and whole[2, :4].tolist() == [3, 0, 0, 0]


def test_a_fed_row_takes_what_the_last_step_drew(runner):
    of = runner()
    plan = decoding(of, [9, 4])
    first = of.launch(plan)
    behind = Plan([Row(row.seq, 1, [row.seq], start=row.end, is_fed=True) for row in reversed(plan.rows)])
    second = of.launch(behind)
    tokens = [s.token_id for s in first()]
    for row, token in zip(plan.rows, tokens, strict=True):
        row.seq.token_ids.append(token)
        row.seq.committed += 1
    again = of.run(Plan([Row(row.seq, 1, [row.seq]) for row in behind.rows]))
    assert [s.token_id for s in second()] == [s.token_id for s in again]


def test_logits_that_are_no_numbers_are_no_token_and_feed_one_that_is(runner):
    of = runner()
    plan = decoding(of, [3, 3])
    embedding = next(part for part in of.model.module.modules() if isinstance(part, torch.nn.Embedding))
    embedding.weight.data[plan.rows[0].seq.token_ids[-1]] = torch.nan
    told = of.launch(plan)
    behind = of.launch(Plan([Row(row.seq, 1, [row.seq], start=row.end, is_fed=True) for row in plan.rows]))
    assert [s.token_id is None for s in told()] == [True, False]
    behind()


class NothingWaits(TorchDispatchMode):
    """Raises where a number would have to come from the device to the host."""

    WAITING = frozenset(
        {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "repeat_interleave"}
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        assert name not in self.WAITING, f"{name} waits for the device"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", list(Kind))
def test_nothing_asks_the_device_for_a_number(runner, kind, monkeypatch):
    """Of transformers' code and of ours around it; of attention ``test_cuda`` shows it."""
    for module, name in ((cpu_stack, "exchange_layers"), (cpu_modules, "exchange_linears")):
        monkeypatch.setattr(module, name, lambda *_: None)
    of = runner()
    monkeypatch.setattr(attention, "attend", lambda rows, *_, **features: rows)
    monkeypatch.setattr(attention, "store_kv", lambda *_: None)
    monkeypatch.setattr("chatpager.kernels.cuda_sampling.draw", lambda raw, **_: raw.argmax(-1))
    of._builder.build_padded(decoding(of, [9, 4]), {}, 4)
    with torch.inference_mode(), NothingWaits():
        of._graphs.compute(4, kind)


def test_a_cut_by_many_launches_is_in_a_graph_of_its_own(runner, monkeypatch):
    """Which a draw without it does not pay for."""
    of = runner()
    graphs, seen = of._graphs, []
    assert graphs.count == len(graphs.sizes) * 3 and Kind.CUT not in graphs.kinds(1), (
        "of 256 tokens one program is best"
    )
    monkeypatch.setattr(cuda_sampling, "LEAST_BLOCKS", 1)
    monkeypatch.setattr(cuda_sampling, "MOST_PROGRAMS", 2)
    assert [len(graphs.kinds(rows)) for rows in (1, 2, 4)] == [4, 4, 3]
    draw = cuda_sampling.draw
    monkeypatch.setattr(
        cuda_sampling, "draw", lambda *args, is_cut, **named: seen.append(is_cut) or draw(*args, **named)
    )
    monkeypatch.setattr(graphs, "_replay", lambda rows, kind: seen.append(kind) or graphs.compute(rows, kind))
    for lengths, params in (([3], {}), ([3], {"top_k": 2}), ([3, 4, 5], {}), ([3, 4, 5], {"top_k": 2})):
        of.launch(decoding(of, lengths, temperature=0.7, **params))()
    assert seen == [Kind.DRAWN, False, Kind.CUT, True, Kind.DRAWN, True, Kind.DRAWN, True]


def test_nothing_is_replayed_before_it_is_captured(runner, monkeypatch):
    """The largest step may have one token of each sequence."""
    of = runner(max_num_batched_tokens=6)
    monkeypatch.setattr(step_graphs.StepGraphs, "_replay", None)
    of._try_largest_step()


def test_a_model_whose_layers_are_its_own_is_launched_kernel_by_kernel(runner):
    assert not can_be_captured(runner().model.module)


@pytest.mark.no_cover
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_random_workloads_get_the_same_tokens(runner, monkeypatch, overlap):
    answers, sizes = {}, set()
    for graphs in (False, True):
        monkeypatch.setattr(ModelRunner, "_has_graphs", graphs)
        of = runner(num_kv_blocks=40, max_num_seqs=4, max_num_batched_tokens=24, swap_space=0.001, overlap=overlap)
        if graphs:
            replay = of._graphs._replay
            monkeypatch.setattr(of._graphs, "_replay", lambda rows, kind, f=replay: (sizes.add(rows), f(rows, kind)))
        for seed in range(2):
            engine = Engine(of.config, of)
            told = Workload(seed).run(engine)
            engine.close()
            assert answers.setdefault(seed, told) == told, seed
    assert sizes == {1, 2, 4}


# -- on a GPU ---------------------------------------------------------------------------------------------------------


def on_gpu(tiny_model, **settings):
    config = EngineConfig(
        model=str(tiny_model("llama")), dtype="float32", device="cuda", block_size=16, num_kv_blocks=200,
        max_model_len=160, max_num_seqs=20, max_num_batched_tokens=64, **settings,
    )  # fmt: skip
    return ModelRunner(config)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("is_split", [False, True])
def test_a_replay_is_what_was_captured(tiny_model, monkeypatch, is_split):
    if is_split:  # as of a large vocabulary
        monkeypatch.setattr(cuda_sampling, "LEAST_BLOCKS", 1)
    of = on_gpu(tiny_model)
    graphs = of._graphs
    assert can_be_captured(of.model.module) and len(graphs._graphs) == graphs.count
    assert any(kind is Kind.CUT for _, kind in graphs._graphs) is is_split
    for lengths in ([5, 17, 100], [1], [30] * 18):
        plan = decoding(of, lengths, temperature=0.8, top_p=0.9)
        size = bucket_of(plan, graphs.sizes)
        graphs.build(plan, {}, size)
        for kind in graphs.kinds(size):
            with torch.inference_mode():
                graphs.compute(size, kind)
            computed = graphs.drawn.clone(), graphs._logits[:size].clone()
            graphs.drawn.fill_(-7)
            graphs._logits.zero_()
            graphs._replay(size, kind)
            if kind is Kind.LOGITS:
                assert torch.equal(graphs._logits[:size], computed[1])
            else:
                assert torch.equal(graphs.drawn[:size], computed[0][:size])


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
def test_graphs_and_overlap_change_no_answer_and_nothing_waits_or_compiles(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    answers = {}
    for graphs in (False, True):
        for overlap in ("off", "on"):
            of = on_gpu(tiny_model, cuda_graphs=graphs, overlap=overlap)
            compiled = sum(1 for _ in tmp_path.rglob("*.cubin"))
            for seed in range(6):
                engine = Engine(of.config, of)
                told = Workload(seed).run(engine)
                engine.close()
                assert answers.setdefault(seed, told) == told, (seed, graphs, overlap)
            assert sum(1 for _ in tmp_path.rglob("*.cubin")) == compiled, "a request waited for a compiler"


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("params", [{"temperature": 0.7}, {"logit_bias": {3: 1.0}, "min_tokens": 9, "logprobs": 2}])
def test_a_launch_does_not_wait(tiny_model, graphs, params):
    of = on_gpu(tiny_model, cuda_graphs=graphs)
    plan = decoding(of, [9, 4], **params)
    told = of.launch(plan)
    behind = Plan([Row(row.seq, 1, [row.seq], start=row.end, is_fed=True) for row in plan.rows])
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = of.launch(behind)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(told()) == len(second()) == 2
