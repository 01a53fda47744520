"""Models made on the spot: shaped as they say, the same from the same seed, and their answers are text."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

from chatpager.bench import models, text
from chatpager.engine import loader
from chatpager.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models") / "llama-15m"
    assert models.make_model("llama-15m", made) == 12_062_976
    return made


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [("llama-15m", 12_062_976), ("160m", 151_022_336), ("500m", 387_258_240), ("qwen3-0.6b", 596_049_920),
     ("llama-8b", 8_030_261_248)],
)  # fmt: skip
def test_shapes_have_the_parameters_of_their_originals(shape, parameters, folder):
    config = models._config(models.SHAPES[shape], folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_shards_hold_what_one_file_does(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "SHARD_BYTES", 4 << 20)
    models.make_model("llama-15m", tmp_path / "sharded")
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 4
    assert max(file.stat().st_size for file in files) < 5 << 20
    whole = load_file(folder / "model.safetensors")
    parts = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    loaded = loader.load(tmp_path / "sharded")
    assert torch.equal(loaded.module.model.embed_tokens.weight, whole["model.embed_tokens.weight"])
    assert not loaded.eos_token_ids


def test_another_seed_gives_another_model(folder, tmp_path):
    models.make_model("llama-15m", tmp_path / "other", seed=5)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("shape", ["15m", "llama-15m"])
def test_the_likeliest_token_always_has_a_text_and_is_no_end(shape, tmp_path):
    models.make_model(shape, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    prompt = torch.randint(1, model.config.vocab_size, (1, 400), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        best = model(prompt).logits[0].argmax(-1)
    assert len(set(best.tolist())) > 5
    assert all(tokenizer.decode([i], skip_special_tokens=True).strip().isalpha() for i in best.tolist())
    assert tokenizer.eos_token_id is None
    assert "assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False
    )


def test_words_are_a_token_each(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = text.words_of(folder)
    assert len(words) > 500
    assert len(tokenizer(" " + " ".join(words)).input_ids) == len(words)
    assert text.words_of(None) == text.PLAIN_WORDS


def test_nothing_is_written_over(folder):
    with pytest.raises(ConfigError, match="new or an empty folder"):
        models.make_model("llama-15m", folder)
