"""A model over two processes answers as it does in one, and none of them outlives the other."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatpager import LLM, SamplingParams
from chatpager.errors import ConfigError, RankLost
from tests.engine.models import configs, save
from tests.gate import DEADLINE

ROOT = Path(__file__).parents[2]
SETTINGS = {"dtype": "float32", "device": "cpu", "block_size": 8, "num_kv_blocks": 14, "max_model_len": 80}
WORDS = [[2 + (7 * i + 3 * place) % 200 for i in range(21)] for place in range(4)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.9, top_p=0.9, seed=5, max_tokens=12, ignore_eos=True)


def talk(llm):
    """Conversations of two turns in a pool that does not hold them all: what the second ones need has gone to host
    memory, and prompts are copied, cut and computed together."""
    first = [llm.generate([words], GREEDY, use_tqdm=False)[0].outputs[0].token_ids for words in WORDS]
    again = [[*words, *said, 9] for words, said in zip(WORDS, first, strict=True)]
    second = llm.generate([again[0], *again], [DRAWN, *[GREEDY] * len(again)], use_tqdm=False)
    return [*first, *(one.outputs[0].token_ids for one in second)]


def split(folder, **more):
    return LLM(folder, tensor_parallel_size=2, **SETTINGS, **more)


def tell_and_wait(folder):
    """Run in a process of its own."""
    llm = split(folder)
    said = talk(llm)
    print(json.dumps([said, llm.engine.tiers.stats.demoted_blocks]), flush=True)
    sys.stdin.read()


def test_two_kv_heads_and_a_first_rank_that_is_killed(tiny_model):
    """Llama, whose layers are merged; host memory has what both ranks have of a block. They have the first one's
    errors' stream, which ends with the last who has it."""
    folder = tiny_model("llama")
    code = f"from tests.engine.test_tensor_parallel import tell_and_wait; tell_and_wait({str(folder)!r})"
    first = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        expected = talk(LLM(folder, **SETTINGS))
        told = first.stdout.readline()
    finally:
        first.kill()
        _, errors = first.communicate(timeout=DEADLINE)
    assert told, errors
    said, demoted = json.loads(told)
    assert said == expected
    assert demoted > 0


def test_four_kv_heads_biases_and_a_rank_that_is_killed(tmp_path):
    """Qwen2 with a window, tied embeddings, and as many KV heads as others."""
    folder = save("qwen2", tmp_path, num_key_value_heads=4, tie_word_embeddings=True)
    llm = split(folder, overlap="on")
    assert talk(llm) == talk(LLM(folder, **SETTINGS))
    assert [pages.shape[2] for pages in llm.runner.cache.keys] == [2, 2]
    assert llm.runner.block_bytes == 2 * 2 * 8 * 4 * 12 * 4
    [child] = llm.runner._ranks._children
    os.kill(child.process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RankLost, match="over 2 processes, and rank 1 has ended with signal 9"):
            llm.generate([[5, 6, 7]], GREEDY, use_tqdm=False)
    assert llm.runner.lost


def test_norms_of_each_head(tmp_path):
    """Qwen3: every part has the whole norms, whose weights differ, and its own heads."""
    folder = save("qwen3", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.uniform_(0.5, 2.0)
    model.save_pretrained(folder)
    assert talk(split(folder)) == talk(LLM(folder, **SETTINGS))


@pytest.mark.parametrize(
    ("architecture", "size", "words"),
    [
        ("llama", 3, "does not divide the model's 4 attention heads; use 1, 2"),
        ("llama", 4, "does not divide the model's 2 KV heads; use 1, 2"),
        ("phi3", 2, "layers of a phi3 model cannot be split; leave it 1"),
        ("qwen3_moe", 2, "layers of a qwen3_moe model cannot be split"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_way_out(tiny_model, architecture, size, words):
    with pytest.raises(ConfigError, match=f"tensor_parallel_size = {size}: .*{words}"):
        LLM(tiny_model(architecture), tensor_parallel_size=size, **SETTINGS)


def test_more_parts_than_devices_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="torch sees 1 CUDA device; lower it, or use --device cpu"):
        LLM(tiny_model("llama"), tensor_parallel_size=2, **SETTINGS | {"device": "auto"})


def test_every_architecture_says_whether_it_can_be_split():
    from chatpager.engine import tensor_parallel

    def can_be(config):
        try:
            tensor_parallel.check(config, 2)
        except ConfigError:
            return False
        return True

    found = {name for name, config in configs().items() if can_be(config)}
    assert found == {"llama", "qwen2", "qwen3", "mistral", "granite", "smollm3", "gemma2", "gemma3_text"}
