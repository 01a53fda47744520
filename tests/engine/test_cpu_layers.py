"""A fused layer computes what transformers' own does, of prompts, of single tokens and of both in one step."""

import gc
import weakref

import pytest
import torch
import transformers
from torch import nn

from chatpager.config import EngineConfig
from chatpager.engine import cpu_layers, cpu_modules, loader
from chatpager.engine.cpu_layers import Layer
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from tests.engine.models import SHAPE, configs
from tests.engine.test_sampler import seq

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


def runner(folder, dtype, monkeypatch, *, fused):
    with monkeypatch.context() as patch:
        if not fused:
            patch.setattr(cpu_layers, "exchange_layers", lambda *_: None)
            patch.setattr(cpu_modules, "exchange_linears", lambda *_: None)
        config = EngineConfig(model=str(folder), dtype=dtype, device="cpu", block_size=8, num_kv_blocks=64)
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
    assert all(type(layer) is Layer for layer in fused.model.module.model.layers)
    torch.testing.assert_close(logits(fused), logits(plain), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("architecture", FUSED)
def test_in_bfloat16_it_is_as_near_the_exact_one_as_the_plain_one(architecture, plain_folder, monkeypatch):
    folder = plain_folder(architecture)
    exact = logits(runner(folder, "float64", monkeypatch, fused=False))
    fused, plain = (logits(runner(folder, "bfloat16", monkeypatch, fused=fused)).double() for fused in (True, False))
    assert (fused - exact).norm() <= 1.3 * (plain - exact).norm()


@pytest.mark.parametrize("architecture", sorted(set(configs()) - set(FUSED)))
def test_what_is_of_another_kind_stays(architecture, tiny_model):
    layers = loader.load(tiny_model(architecture), dtype="float32", device="cpu").module.model.layers
    assert not any(type(layer) is Layer for layer in layers)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_numbers_are_left_to_transformers(dtype, tiny_model):
    layers = loader.load(tiny_model("llama"), dtype=dtype, device="cpu").module.model.layers
    assert not any(type(layer) is Layer for layer in layers)


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
    layer = model.model.layers[1]
    change(layer, monkeypatch)
    cpu_layers.exchange_layers(model, cpu_modules.Scratch())
    assert model.model.layers[1] is layer


def test_the_originals_are_let_go_of():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).requires_grad_(False)
    seen = [weakref.ref(child) for child in model.model.layers.modules() if type(child) is nn.Linear]
    cpu_layers.exchange_layers(model, cpu_modules.Scratch())
    gc.collect()
    assert not any(ref() is not None for ref in seen)
