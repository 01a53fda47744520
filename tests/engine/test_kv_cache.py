"""Keys and values in eight bits, through a whole engine: near the exact model, and the same whether cached or not."""

import pytest
import torch

from chatpager.config import EngineConfig
from chatpager.config_values import check_engine
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.engine import Engine
from chatpager.engine.kv_cache import KVCache, kept_as
from chatpager.engine.messages import AddRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Limits
from chatpager.engine.sequence import SamplingParams
from chatpager.engine.tiers import Tiers
from chatpager.errors import ConfigError
from tests.engine.models import VOCAB, Reference
from tests.engine.schedules import Schedule

KINDS = ["int8", "fp8"]
TOLERANCE = {"int8": 2e-2, "fp8": 6e-2}
"""Root-mean-square error of logits, over that of the logits, in two layers with weights that are spread wide."""
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def config(folder, kind="auto", **settings):
    given = {"dtype": "float32", "device": "cpu", "block_size": 8, "num_kv_blocks": 40, "max_model_len": 200}
    return EngineConfig(model=str(folder), kv_cache_dtype=kind, **{"swap_space": 0.0, **given, **settings})


def answered(engine, prompt, count, **request):
    """The tokens of one answer, and its usage."""
    params = SamplingParams(max_tokens=count, **GREEDY)
    engine.add(AddRequest(request_id="r", prompt_token_ids=list(prompt), params=params, **request), 0.0)
    outputs = []
    while engine.has_work:
        outputs += engine.step(float)
    return tuple(token for output in outputs for token in output.token_ids), outputs[-1].usage


def logits(folder, kind, dtype, prompt):
    """Of the last token of a prompt in chunks of seven, and of those that are decoded after it: the exact model's."""
    runner = ModelRunner(config(folder, kind, dtype=dtype))
    engine = Engine(runner.config, runner, limits=Limits(max_num_batched_tokens=7))
    seen, forward = [], runner.forward
    runner.forward = lambda batch: seen.append(forward(batch).double()) or seen[-1]
    answered(engine, prompt, 1)
    return seen[-1]


def ids(count, seed=1):
    return torch.randint(2, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_near_those_of_the_exact_model(tiny_model, architecture, kind):
    folder, prompt = tiny_model(architecture), ids(60)
    exact = logits(folder, "auto", "float64", prompt)
    found = logits(folder, kind, "float32", prompt)
    assert 1e-4 < (found - exact).norm() / exact.norm() < TOLERANCE[kind]


class Cold(Reference):
    """The greedy answers of an engine in eight bits that reuses nothing."""

    least_margin = 2e-2  # a number that rounds the other way in another company moves logits by its step

    def __init__(self, folder, kind):
        self.new_tokens = 12
        self._runner = ModelRunner(config(folder, kind, enable_prefix_caching=False))

    def answer(self, prompt):
        seen, forward = [], self._runner.forward
        self._runner.forward = lambda batch: seen.append(forward(batch)) or seen[-1]
        found, _ = answered(Engine(self._runner.config, self._runner), prompt, self.new_tokens)
        self._runner.forward = forward
        rows = torch.cat(seen)[-self.new_tokens :]
        best = rows.topk(2, -1).values
        return found, ((best[:, 0] - best[:, 1]) / rows.std(-1)).min().item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hit_changes_no_token_whatever_the_schedule(tiny_model, kind, tmp_path):
    """Device, host memory, disk, forks, preemption, crashes: all against an engine that computes every turn anew."""
    folder = tiny_model("llama")
    cold = Cold(folder, kind)
    sessions = cold.sessions(seed=7, count=3, turns=3)
    otherwise = cold.otherwise(8, sessions)
    for seed in range(4):
        Schedule(folder, sessions, otherwise, seed, tmp_path / str(seed), kv_cache_dtype=kind).run()


def test_a_disk_gives_blocks_to_the_same_dtype_only(tiny_model, tmp_path):
    folder, prompt = tiny_model("llama"), ids(64)
    runners = {kind: ModelRunner(config(folder, kind)) for kind in ("auto", *KINDS)}

    def disk_tokens(kind):
        runner, disk = runners[kind], DiskTier(tmp_path / "kv", 1 << 24)
        engine = Engine(runner.config, runner, tiers=Tiers(runner, disk=disk, clock=lambda: 0.0))
        _, usage = answered(engine, prompt, 1, owner=kind)
        engine.close()
        return usage.disk_tokens

    assert [disk_tokens(kind) for kind in ("int8", "fp8", "auto", "int8")] == [0, 0, 0, 56]
    engines = [Engine(config(folder, enable_prefix_caching=False), runner) for runner in runners.values()]
    assert len({engine.fingerprint for engine in engines}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_takes_its_numbers_and_a_scale_for_each_head_and_token(tiny_model, kind):
    runner = ModelRunner(config(tiny_model("llama"), kind))
    assert runner.block_bytes == 2 * 2 * 8 * 2 * (16 + 4)
    every = [*runner.cache.keys, *runner.cache.values, *runner.cache.key_scales, *runner.cache.value_scales]
    assert sum(tensor.nbytes for tensor in every) == runner.num_blocks * runner.block_bytes


@pytest.mark.parametrize("kind", ["auto", *KINDS])
def test_content_survives_a_copy_and_a_way_through_bytes(kind):
    dtype = kept_as(kind, torch.bfloat16, torch.device("cpu"))
    cache = KVCache.allocate(2, 6, 8, 3, 5, dtype, torch.device("cpu"))
    every = [*cache.keys, *cache.values, *cache.key_scales, *cache.value_scales]
    for tensor in every:
        tensor.copy_(torch.randn(tensor.shape) * 50)
    before = [tensor.clone().view(torch.int8) for tensor in every]
    contents = cache.read([1, 4])
    cache.copy(torch.tensor([[1, 2], [3, 5]]))
    cache.write([4, 0], contents)
    for tensor, old in zip(every, before, strict=True):
        assert torch.equal(tensor.view(torch.int8), old[[4, 1, 1, 3, 1, 3]])
    assert len(contents[0]) == sum(tensor[0].nbytes for tensor in every)


def test_what_is_not_served_is_refused_with_the_way_out(tiny_model, monkeypatch):
    from chatpager.kernels import cuda

    with pytest.raises(ConfigError, match=r"kv_cache_dtype = 'int4' .*must be one of auto, fp8, int8"):
        check_engine(EngineConfig(), {"kv_cache_dtype": "int4"})
    monkeypatch.setattr(cuda, "served_eight_bits", lambda _: (torch.int8,))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"kv_cache_dtype = 'fp8': NVIDIA A100 cannot convert .*; use int8"):
        kept_as("fp8", torch.bfloat16, torch.device("cuda"))
    assert kept_as("int8", torch.bfloat16, torch.device("cuda")) is torch.int8
