"""The built-in model as it is shipped: its size, its files, and what it gets right.

The goals (card.GOALS) hold for the full evaluation. The floors only guard the shipped weights against getting worse:
they lie below the measured figures, because a few dozen cases decide each.
"""

import json
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from chatpager.demo import model_path
from chatpager.demo.card import GOALS
from chatpager.demo.cases import make_cases
from chatpager.demo.evaluate import Player, tally
from chatpager.demo.recipe import Recipe

SAMPLE = {"recall": 0.02, "project": 0.1, "unknown": 0.15, "greeting": 1.0, "untold": 0.2, "corrected": 0.15}
FLOOR = {"recall": 0.7, "project": 0.8, "unknown": 0.7, "greeting": 0.85, "untold": 0.7, "corrected": 0.85}


@pytest.fixture(scope="module")
def player():
    return Player(model_path())


def test_the_package_data_is_at_most_16_megabytes():
    assert sum(f.stat().st_size for f in model_path().parent.rglob("*") if f.is_file() and f.suffix != ".pyc") <= 16e6


def test_the_folder_is_a_llama_in_bf16_with_all_its_files():
    config = AutoConfig.from_pretrained(model_path())
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.dtype == torch.bfloat16
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.max_position_embeddings >= 2048
    names = {f.name for f in model_path().iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "README.md",
    }


def test_the_shipped_weights_have_the_shape_of_the_recipe():
    training = json.loads((model_path() / "training.json").read_text())
    recipe = Recipe(**training["recipe"])
    model = AutoModelForCausalLM.from_pretrained(model_path())
    assert recipe == Recipe(), "the defaults are not what was run"
    assert recipe.steps == training["steps"]
    assert recipe.llama().rope_parameters == model.config.rope_parameters
    assert sum(p.numel() for p in model.parameters()) == training["parameters"]
    assert 3e6 <= training["parameters"] <= 7e6


def test_the_default_sampling_is_cool_and_stops_at_the_end_of_a_message():
    config = GenerationConfig.from_pretrained(model_path())
    assert config.temperature <= 0.3
    assert 3 in config.eos_token_id


@pytest.mark.parametrize("way", ["float32", "sampled"])
@pytest.mark.parametrize("suite", ["recall", "project", "unknown"])
def test_the_committed_figures_meet_the_goal(way, suite):
    right, total = json.loads((model_path() / "evaluation.json").read_text())[way][suite]["all"]
    assert right / total >= GOALS[suite], (right, total)


@pytest.mark.parametrize("suite", sorted(SAMPLE))
def test_the_model_still_does_on_held_out_conversations_it_was_not_reported_on(player, suite):
    cases = make_cases(1, SAMPLE[suite], (suite,))
    right, total = tally(player.play(cases))[suite]["all"]
    assert right / total >= FLOOR[suite], (right, total)


@pytest.mark.parametrize(("said", "expected"), [("Hello!", "Hello"), ("你好！", "你好"), ("您好！", "你好")])
def test_it_greets_in_english_and_chinese(player, said, expected):
    (answer,) = player.answers([[{"role": "user", "content": said}]])
    assert expected in answer


def test_it_remembers_a_name_it_never_saw(player):
    messages = [{"role": "user", "content": "Hi, my name is Quillandra."}]
    messages.append({"role": "assistant", "content": player.answers([messages])[0]})
    messages.append({"role": "user", "content": "What is my name?"})
    assert "Quillandra" in player.answers([messages])[0]


def test_a_longer_answer_is_whole_characters(player):
    answer = player.answers([[{"role": "user", "content": "Write a Chinese poem."}]])[0]
    assert "�" not in answer
    assert sum("\u4e00" <= c <= "\u9fff" for c in answer) > 20


@pytest.mark.parametrize(("last", "said"), [(5, "Count to 5."), (20, "Count to 20."), (12, "从1数到12。")])
def test_it_counts_and_stops(player, last, said):
    (answer,) = player.answers([[{"role": "user", "content": said}]])
    assert list(map(int, re.findall(r"\d+", answer))) == list(range(1, last + 1))


def test_it_says_what_it_was_told_about_a_thing(player):
    messages = [{"role": "user", "content": "My favourite colour is teal."}]
    messages.append({"role": "assistant", "content": player.answers([messages])[0]})
    messages.append({"role": "user", "content": "What did I tell you about colours?"})
    assert "teal" in player.answers([messages])[0]


def test_a_story_comes_to_its_end(player):
    (answer,) = player.answers([[{"role": "user", "content": "Tell me a story."}]])
    assert answer.endswith("The end.")
