"""The engine's steps against their floor, on the smallest model."""

import json
from functools import partial

import pytest
import torch

from chatpager.bench import ceilings, models, steps
from chatpager.bench.ceilings import Ceilings
from chatpager.errors import ConfigError

SMALL = {"shape": "llama-15m", "batches": (1, 3), "contexts": (20, 90), "steps": 2, "step_tokens": 100}


def test_every_step_has_a_time_and_a_floor(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ceilings.READ_BYTES, "cpu", 16 << 20)
    monkeypatch.setitem(ceilings.MATMUL_SIZE, "cpu", 128)
    out = tmp_path / "steps.json"
    result = steps.run(steps.Options(**SMALL, out=str(out)))
    assert json.loads(out.read_text()) == result
    cells = {(c["kind"], c["batch"], c["context"]): c for c in result["cells"]}
    assert len(cells) == 8
    assert cells.pop(("prefill", 3, 90))["skipped"] == "more tokens than --step-tokens"
    for cell in cells.values():
        assert cell["floor_ms"] >= 1000 * 2 * 9_965_824 / (result["read_gb_per_s"] * 1e9) * 0.99  # all weights
        assert 0 < cell["best_ms"] <= cell["ms"]
        assert cell["of_floor"] == pytest.approx(cell["floor_ms"] / cell["ms"], rel=0.01, abs=1e-3)
    for row in result["engine"]:
        assert 0 < row["own_ms"] < row["step_ms"] and 0 < row["model_share"] < 1
    assert "the model runs" in capsys.readouterr().out
    assert out.with_suffix(".html").read_text().count("<svg") == 5


class Model:
    """The shape of a model of two layers, as the runner has it; the numbers below are counted by hand."""

    def __init__(self, tied):
        self.config = type("Config", (), {"vocab_size": 10, "hidden_size": 4, "tie_word_embeddings": tied,
                                          "num_attention_heads": 2})  # fmt: skip
        self.dtype = torch.bfloat16


class Runner:
    def __init__(self, tied):
        from chatpager.engine.architectures import Shape

        self.model = Model(tied)
        self.shape = Shape(layers=2, kv_heads=1, head_dim=2, vocab_size=10, max_positions=100)


@pytest.mark.parametrize("tied", [True, False])
def test_the_work_of_a_step_is_what_one_counts_by_hand(tied):
    kv = 2 * 2 * 1 * 2 * 2  # keys and values, two layers, one head of two, two bytes
    pair = 4 * 2 * 2 * 2  # two products of two operations, two layers, two heads of two
    all_of_them = 100 + (40 if tied else 2 * 40)  # body; head and embedding, 10 x 4 each
    work = partial(steps.work, Runner(tied), all_of_them)
    assert work("decode", 3, 5) == (140 * 2 + 15 * kv, 2 * 140 * 3 + pair * 15)
    assert work("prefill", 3, 5) == (140 * 2 + 15 * kv, 2 * 100 * 15 + 2 * 40 * 3 + pair * 3 * 15)


def test_the_work_of_a_model_that_is_loaded_is_that_of_its_files(tmp_path):
    parameters = models.make_model("llama-15m", tmp_path)
    options = steps.Options(**SMALL)
    runner = steps._runner(options, tmp_path)
    # Embedding and head are 8,192 x 256 each, and a step reads the second.
    assert parameters == 12_062_976
    read = 2 * (12_062_976 - 8192 * 256) + 20 * runner.shape.bytes_per_token(2)
    assert steps.work(runner, parameters, "decode", 1, 20)[0] == read


def test_the_floor_is_the_longer_of_the_two():
    most = Ceilings(read_bytes_per_s=100.0, flops_per_s=1000.0)
    assert most.floor(50, 100) == (0.5, "memory")
    assert most.floor(5, 100) == (0.1, "compute")


def test_contexts_that_the_memory_does_not_hold_are_left_out(monkeypatch):
    monkeypatch.setitem(ceilings.READ_BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(ceilings.MATMUL_SIZE, "cpu", 64)
    room = 1.5 * 4096 * 4096 / (1 << 30)  # one and a half contexts, 4 KiB a token
    result = steps.run(steps.Options(**{**SMALL, "batches": (1, 2), "contexts": (4096,), "kv_gib": room}))
    skipped = {(c["kind"], c["batch"]): c.get("skipped") for c in result["cells"]}
    assert skipped[("decode", 1)] is None
    assert skipped[("decode", 2)] == "its KV is more than --kv-gib"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batches": (4, 0)}, "batches = 0: must be at least 1"),
        ({"contexts": ()}, "contexts"),
        ({"steps": 1}, "steps"),
        ({"kv_gib": 0}, "kv_gib"),
        ({"dtype": "int3"}, "dtype"),
        ({"device": "tpu"}, "device = 'tpu': must be auto or cpu or cuda"),
        ({"shape": "x"}, "shape"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        steps.run(steps.Options(**{**SMALL, **wrong}))
