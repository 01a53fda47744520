"""A fused layer computes what transformers' own does, of prompts, of single tokens and of both in one step."""

import gc
import weakref

import pytest
import torch
import transformers
from torch import nn

from chatpager.config import EngineConfig
from chatpager.engine import cpu_layers, cpu_linears, cpu_modules, cpu_stack, loader
from chatpager.engine.cpu_linears import Maker
from chatpager.engine.cpu_stack import Stack, StackProgram
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from chatpager.errors import ConfigError
from chatpager.kernels import cpu_linear
from tests.engine.models import SHAPE, configs
from tests.engine.test_sampler import seq

LOOSE = {"rtol": 0.02, "atol": 0.05}
"""Of bfloat16 where attention's parts are cut otherwise."""
FUSED = ["llama", "mistral", "qwen2", "qwen3"]


@pytest.fixture
def plain_folder(tmp_path):
    """A model whose norms' weights are no ones and whose biases are no zeros."""

    def made(architecture):
        torch.manual_seed(5)
        model = transformers.AutoModelForCausalLM.from_config(configs()[architecture], dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(1 if weight.ndim == 1 else 0, 0.15)
        model.save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return made


def runner(folder, dtype, monkeypatch, *, fused, quantization="none"):
    with monkeypatch.context() as patch:
        if not fused:
            patch.setattr(cpu_stack, "exchange_layers", lambda *_: None)
            patch.setattr(cpu_modules, "exchange_linears", lambda *_: None)
        config = EngineConfig(
            model=str(folder), dtype=dtype, quantization=quantization, device="cpu", block_size=8, num_kv_blocks=64
        )
        return ModelRunner(config)


def logits(run):
    """Of a prompt, then of a second one beside the first one's next token, then of single tokens."""
    first, second = seq(prompt=range(2, 40)), seq(prompt=range(90, 107))
    first.block_table, second.block_table = [1, 2, 3, 4, 5, 6], [7, 9, 8, 10, 11]
    given = []
    for step in (((first, 38),), ((first, 1), (second, 17)), *[((first, 1), (second, 1))] * 3):
        plan = Plan()
        plan.rows += [Row(of, count, [of]) for of, count in step]
        with torch.inference_mode():
            given.append(run.forward(run._builder.build(plan)).clone())
        for of, count in step:
            of.committed += count
            of.token_ids.append(50 + of.committed)
    return torch.cat(given)


@pytest.mark.parametrize("architecture", FUSED)
def test_a_fused_model_computes_what_the_plain_one_does(architecture, plain_folder, monkeypatch):
    folder = plain_folder(architecture)
    fused, plain = (runner(folder, "float32", monkeypatch, fused=fused) for fused in (True, False))
    assert [type(layer) for layer in fused.model.module.model.layers] == [Stack]
    assert type(fused.model.module) is cpu_stack.Decoder
    torch.testing.assert_close(logits(fused), logits(plain), rtol=2e-4, atol=2e-4)


@pytest.fixture(params=sorted({False, cpu_linear.has_dots()}), ids=lambda dots: "dots" if dots else "widened")
def programs(request, monkeypatch):
    """How many rows were run as a program, each time, also where oneDNN would be taken."""
    monkeypatch.setattr(cpu_linear, "has_dots", lambda: request.param)
    seen, run = [], StackProgram.run
    monkeypatch.setattr(cpu_linears, "packs", lambda dtype: dtype is torch.float32)
    monkeypatch.setattr(StackProgram, "run", lambda *given: seen.append(given[-1].num_tokens) or run(*given))
    return seen


@pytest.mark.parametrize("programmed", [True, False])
@pytest.mark.parametrize("architecture", FUSED)
def test_in_bfloat16_it_is_as_near_the_exact_one_as_the_plain_one(
    architecture, programmed, plain_folder, programs, monkeypatch
):
    folder = plain_folder(architecture)
    exact = logits(runner(folder, "float64", monkeypatch, fused=False))
    plain = logits(runner(folder, "bfloat16", monkeypatch, fused=False)).double()
    if not programmed:
        monkeypatch.setattr(cpu_stack.cpu_program, "executor", lambda: None)
    fused = logits(runner(folder, "bfloat16", monkeypatch, fused=True)).double()
    assert programs == ([2, 2, 2] if programmed else [])
    assert (fused - exact).norm() <= 1.3 * (plain - exact).norm()


class Threads:
    """torch's number of them, for a while."""

    def __init__(self, count):
        self.count, self.before = count, torch.get_num_threads()

    def __enter__(self):
        torch.set_num_threads(self.count)

    def __exit__(self, *_):
        torch.set_num_threads(self.before)


def decoded(run, lengths, threads, steps=3):
    """Logits of single tokens behind prompts of these lengths, and what the caches hold then."""
    rows = [seq(prompt=range(1 + i, 1 + i + n)) for i, n in enumerate(lengths)]
    given, free = [], iter(range(1, run.num_blocks))
    for pages in (*run.cache.keys, *run.cache.values):
        pages.zero_()  # what no token was written to may hold anything
    for row in rows:
        row.block_table = [next(free) for _ in range(-(-(len(row.token_ids) + steps) // run.block_size))]
    for step in range(1 + steps):
        plan = Plan()
        plan.rows += [Row(row, len(row) - row.committed, [row]) for row in rows]
        with torch.inference_mode(), Threads(threads if step else 1):
            given.append(run.forward(run._builder.build(plan)).clone())
        for i, row in enumerate(rows):
            row.committed = len(row)
            row.token_ids.append(100 + 7 * (i % 9) + step)
    return torch.stack(given[1:]), [run.cache.keys[-1][1 : next(free)].clone(), run.cache.values[-1][1].clone()]


@pytest.mark.parametrize(
    "numbers", [("bfloat16", "none"), ("float32", "none"), ("bfloat16", "int8"), ("float32", "int8")]
)
@pytest.mark.parametrize("architecture", FUSED)
def test_a_program_computes_the_bits_of_its_layers(architecture, numbers, plain_folder, programs, monkeypatch):
    """Of rows that differ in length, with one thread, with several, and then with fewer rows."""
    dtype, quantization = numbers
    run = runner(plain_folder(architecture), dtype, monkeypatch, fused=True, quantization=quantization)
    lengths = [3, 40, 17, 8, 25, 31, 9]
    with monkeypatch.context() as patch:
        patch.setattr(run.model.module.model.layers[0], "_rows", 0)
        wanted = decoded(run, lengths, 1)
    for threads in (1, 2, 3, 1):
        for got, exact in zip(decoded(run, lengths, threads), wanted, strict=True):
            loose = LOOSE if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
            tolerance = {"rtol": 0.0, "atol": 0.0} if threads == 1 else loose
            torch.testing.assert_close(got, exact, **tolerance)
    few, _ = decoded(run, lengths[:2], 1)
    assert torch.equal(few, wanted[0][:, :2])
    assert programs == [7] * 12 + [2] * 3


def test_a_program_of_as_many_rows_as_it_has_room_for(plain_folder, programs, monkeypatch):
    run = runner(plain_folder("qwen3"), "bfloat16", monkeypatch, fused=True)
    stack = run.model.module.model.layers[0]
    run.num_blocks = 160
    run._open(run.num_blocks)
    lengths = [1 + 3 * i % 11 for i in range(stack._rows)]
    with monkeypatch.context() as patch:
        patch.setattr(stack, "_rows", 0)
        wanted, _ = decoded(run, lengths, 1, steps=1)
    for threads in (1, 3):
        got, _ = decoded(run, lengths, threads, steps=1)
        torch.testing.assert_close(got, wanted, **({"rtol": 0.0, "atol": 0.0} if threads == 1 else LOOSE))
    assert programs == [len(lengths)] * 2


def test_a_program_tells_of_a_block_that_is_none_and_goes_on_afterwards(plain_folder, programs, monkeypatch):
    run = runner(plain_folder("qwen3"), "bfloat16", monkeypatch, fused=True)
    wanted, _ = decoded(run, [9], 1)
    for block, message in ((9999, "slot 799"), (-3, "block -3")):
        row, plan = seq(prompt=range(1, 12)), Plan()
        row.block_table, row.committed = [block, 5], 10 if block < 0 else 5
        row.token_ids = row.token_ids[: row.committed + 1]
        plan.rows.append(Row(row, 1, [row]))
        with torch.inference_mode(), pytest.raises(IndexError, match=message):
            run.forward(run._builder.build(plan))
    assert torch.equal(decoded(run, [9], 1)[0], wanted)


def test_more_rows_than_a_program_has_are_computed_by_layers(plain_folder, programs, monkeypatch):
    run = runner(plain_folder("llama"), "bfloat16", monkeypatch, fused=True)
    monkeypatch.setattr(run.model.module.model.layers[0], "_rows", 4)
    decoded(run, [3] * 5, 1)
    assert not programs


def test_another_cache_gets_a_program_of_its_own(plain_folder, programs, monkeypatch):
    run = runner(plain_folder("llama"), "bfloat16", monkeypatch, fused=True)
    wanted, _ = decoded(run, [9], 1)
    run._open(32)
    assert torch.equal(decoded(run, [9], 1)[0], wanted)


@pytest.mark.parametrize("architecture", sorted(set(configs()) - set(FUSED)))
def test_what_is_of_another_kind_stays(architecture, tiny_model):
    layers = loader.load(tiny_model(architecture), dtype="float32", device="cpu").module.model.layers
    assert len(layers) == 2 and not any(type(layer) is Stack for layer in layers)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_numbers_are_left_to_transformers(dtype, tiny_model):
    layers = loader.load(tiny_model("llama"), dtype=dtype, device="cpu").module.model.layers
    assert len(layers) == 2 and not any(type(layer) is Stack for layer in layers)


def without_compiler(layer, patch):
    patch.setattr(cpu_layers.cpu_rows, "kernel", lambda dtype: None)


def with_another_activation(layer, patch):
    layer.mlp.act_fn = nn.GELU()


def with_one_bias(layer, patch):
    layer.self_attn.k_proj.bias = nn.Parameter(torch.zeros(32), requires_grad=False)


def with_an_own_linear(layer, patch):
    layer.mlp.down_proj = type("Own", (nn.Linear,), {})(64, 48)


@pytest.mark.parametrize("change", [without_compiler, with_another_activation, with_one_bias, with_an_own_linear])
def test_a_layer_of_other_parts_stays(change, monkeypatch):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).requires_grad_(False)
    before = list(model.model.layers)
    change(before[1], monkeypatch)
    cpu_stack.exchange_layers(model, Maker())
    assert list(model.model.layers) == before


def test_layers_are_let_go_of_one_by_one(monkeypatch):
    """When one is made, those before it are gone: a model never takes twice its memory."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).requires_grad_(False)
    originals = [weakref.ref(child) for child in model.model.layers.modules() if type(child) is nn.Linear]
    counts, make = [], Maker.make

    def counted(self, linears):
        counts.append(sum(ref() is not None for ref in originals))
        return make(self, linears)

    monkeypatch.setattr(Maker, "make", counted)
    cpu_stack.exchange_layers(model, Maker())
    assert counts == [14] * 4 + [7] * 4


def test_logits_of_some_rows_of_a_program_are_those_of_all(plain_folder, monkeypatch):
    run = runner(plain_folder("qwen3"), "bfloat16", monkeypatch, fused=True)
    if not run.model.module._stack.tail:
        monkeypatch.setattr(cpu_linears, "packs", lambda dtype: False)
        run = runner(plain_folder("qwen3"), "bfloat16", monkeypatch, fused=True)
    rows = [seq(prompt=[3, 4 + i]) for i in range(3)]
    for i, row in enumerate(rows):
        row.block_table, row.committed = [1 + i], 0
    asked = []
    for samples in ([[row] for row in rows], [[rows[0]], [], [rows[2]]]):
        plan = Plan()
        plan.rows += [Row(row, 1, sampled) for row, sampled in zip(rows, samples, strict=True)]
        with torch.inference_mode():
            asked.append(run.forward(run._builder.build(plan)).clone())
    assert torch.equal(asked[1], asked[0][[0, 2]])


def test_a_rotation_of_a_part_of_each_head_is_refused(plain_folder, monkeypatch):
    run = runner(plain_folder("llama"), "float32", monkeypatch, fused=True)
    half = [torch.ones(1, 38, 8)] * 2
    monkeypatch.setattr(run.model.module.model.rotary_emb, "forward", lambda *_, **__: half)
    with pytest.raises(ValueError, match="8 dimensions, a head 16"):
        logits(run)


def test_the_originals_are_let_go_of():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).requires_grad_(False)
    seen = [weakref.ref(child) for child in model.model.layers.modules() if type(child) is nn.Linear]
    cpu_stack.exchange_layers(model, Maker())
    gc.collect()
    assert not any(ref() is not None for ref in seen)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3", "qwen3_moe"])
def test_in_eight_bits_answers_stay_near(architecture, tiny_model, monkeypatch):
    """Of random weights; as near as steps of a 127th of each row's largest weight leave them."""
    folder = tiny_model(architecture)
    exact = logits(runner(folder, "float32", monkeypatch, fused=True))
    near = logits(runner(folder, "float32", monkeypatch, fused=True, quantization="int8"))
    assert not torch.equal(near, exact)
    assert (near - exact).norm() <= 0.05 * exact.norm()


def test_eight_bits_are_another_model_for_the_cache(tiny_model):
    loads = [loader.load(tiny_model("llama"), device="cpu", quantization=kind) for kind in ("none", "int8")]
    assert loads[0].fingerprint != loads[1].fingerprint
    assert loads[0].fingerprint == loader.load(tiny_model("llama"), device="cpu").fingerprint


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_eight_bits_beside_numbers_without_kernels_are_refused(dtype, tiny_model):
    with pytest.raises(ConfigError, match=r"quantization = 'int8': .*float32 or bfloat16"):
        loader.load(tiny_model("llama"), dtype=dtype, device="cpu", quantization="int8")
