"""A tiny training: the loss falls, a stopped run goes on, and the folder can be loaded."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from chatpager.demo import train as module
from chatpager.demo.recipe import Recipe
from chatpager.demo.train import Training, main, train

TINY = Recipe(
    vocab_size=400,
    hidden_size=32,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=16,
    feed_forward=64,
    window=256,
    cells=512,
    tokenizer_conversations=60,
    steps=24,
    warmup=2,
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    return TINY


def losses(capfd):
    return [float(line.split("loss ")[1]) for line in capfd.readouterr().out.splitlines() if "loss " in line]


def test_a_short_training_lowers_the_loss_and_leaves_a_loadable_folder(tmp_path, tiny, capfd):
    train(tiny, tmp_path)
    found = losses(capfd)
    assert found[-1] < 0.9 * found[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt", return_dict=True)
    assert model(**batch).logits.shape[-1] == tiny.vocab_size
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [3, 1]
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["steps"] == tiny.steps
    assert facts["recipe"] == tiny.as_dict()


def test_the_same_seed_gives_the_same_tokenizer_and_weights(tmp_path, tiny):
    short = replace(tiny, steps=2)
    for name in ("a", "b"):
        train(short, tmp_path / name)
    for file in ("tokenizer.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_stopped_run_goes_on_where_it_was(tmp_path, tiny):
    train(replace(tiny, steps=2), tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = Training(replace(tiny, steps=2), tmp_path, "cpu")
    again.load()
    assert (again.step, again.tokens, again.round) == (2, state["tokens"], state["round"])
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, state["model"][name])
    weights = (tmp_path / "model.safetensors").read_bytes()
    train(replace(tiny, steps=2), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_a_folder_of_another_recipe_is_refused(tmp_path, tiny):
    train(replace(tiny, steps=1), tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        train(replace(tiny, steps=1, seed=1), tmp_path)


def test_minutes_end_a_run(tmp_path, tiny):
    train(replace(tiny, steps=10**9), tmp_path, minutes=0.002)
    assert 0 < json.loads((tmp_path / "training.json").read_text())["steps"] < 10**6


def test_two_workers_take_the_steps_of_one(tmp_path, tiny):
    short = replace(tiny, steps=3)
    train(short, tmp_path / "one")
    train(short, tmp_path / "two", workers=2)
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0.05, atol=0.01)


def test_the_command_line_reaches_the_training(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "train", lambda *a, **k: calls.append((a, k)))
    main(["--steps", "7", "--seed", "3", "--out", str(tmp_path), "--device", "cpu", "--workers", "1", "--eager"])
    ((recipe, out), how) = calls[0]
    assert (recipe.steps, recipe.seed, out) == (7, 3, tmp_path)
    assert how == {"device": "cpu", "minutes": None, "workers": 1, "compiled": False}
    main(["--minutes", "2", "--out", str(tmp_path)])
    assert calls[1][1]["minutes"] == 2.0
