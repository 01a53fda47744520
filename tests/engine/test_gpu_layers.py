"""The layers of a GPU compute what transformers' own do, in the interpreter where there is no GPU."""

import pytest
import torch
from torch import nn

from chatpager.config import EngineConfig
from chatpager.engine import cpu_modules, cpu_stack, gpu_layers
from chatpager.engine.gpu_layers import Stack
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from tests.engine.test_cpu_stack import FUSED
from tests.engine.test_sampler import seq

pytestmark = pytest.mark.no_cover
HAS_GPU = torch.cuda.is_available()
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(HAS_GPU, reason="kernels are compiled here")),
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")]),
]
EXCHANGE = gpu_layers.exchange_layers


@pytest.fixture(params=DEVICES)
def runner(request, tiny_model, monkeypatch):
    """Of a model with transformers' own layers."""
    monkeypatch.setattr(cpu_stack, "exchange_layers", lambda *_: None)
    monkeypatch.setattr(cpu_modules, "exchange_linears", lambda *_: None)
    monkeypatch.setattr(gpu_layers, "exchange_layers", lambda *_: None)

    def made(architecture, kept="auto"):
        settings = {"dtype": "float32", "block_size": 8, "num_kv_blocks": 16, "kv_cache_dtype": kept}
        return ModelRunner(EngineConfig(model=str(tiny_model(architecture)), device=request.param, **settings))

    return made


def logits(run):
    """Of a prompt, of another beside the first one's next token, and of one token each."""
    first, second = seq(prompt=range(2, 7)), seq(prompt=range(90, 94))
    first.block_table, second.block_table = [1, 2], [5, 3]
    given = []
    for step in (((first, 5),), ((first, 1), (second, 4)), ((first, 1), (second, 1))):
        plan = Plan()
        plan.rows += [Row(of, count, [of]) for of, count in step]
        with torch.inference_mode():
            given.append(run.forward(run._builder.build(plan)).clone())
        for of, count in step:
            of.committed += count
            of.token_ids.append(50 + of.committed)
    return torch.cat(given)


@pytest.mark.parametrize(
    ("architecture", "kept", "tolerance"), [*((one, "auto", 2e-4) for one in FUSED), (FUSED[0], "int8", 2e-2)]
)
def test_a_fused_model_computes_what_the_plain_one_does(runner, architecture, kept, tolerance):
    run = runner(architecture, kept)
    with torch.no_grad():  # norms' weights that are no ones, biases that are no zeros
        for weight in run.model.module.parameters():
            if weight.ndim == 1:
                weight += 0.15 * torch.randn_like(weight)
    plain = logits(run)
    EXCHANGE(run.model.module)
    assert [type(layer) for layer in run.model.module.model.layers] == [Stack]
    torch.testing.assert_close(logits(run), plain, rtol=tolerance, atol=tolerance)


def test_layers_of_another_kind_stay(runner):
    module = runner("olmo2").model.module
    before = list(module.model.layers)
    EXCHANGE(module)
    assert list(module.model.layers) == before
    module = runner("llama").model.module
    module.model.layers[1].mlp.down_proj = nn.Identity()
    before = list(module.model.layers)
    EXCHANGE(module)
    assert list(module.model.layers) == before


def test_a_rotary_embedding_of_a_part_of_each_head_is_refused(runner):
    module = runner("llama").model.module
    EXCHANGE(module)
    (stack,) = module.model.layers
    part = torch.ones(1, 3, 8)
    with pytest.raises(ValueError, match="8 dimensions, a head 16"):
        stack(torch.zeros(1, 3, 48), position_embeddings=(part, part), paged=None)
