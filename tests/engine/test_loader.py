"""Folders that cannot be served are refused with the file and the reason, before anything runs."""

import json
import pickle
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from chatpager.engine import architectures, loader
from chatpager.errors import ModelLoadError, UnsupportedModel
from tests.engine.models import SHAPE, configs, write_config


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of a good model that a test may damage."""
    return shutil.copytree(tiny_model("llama"), tmp_path / "model")


def test_a_good_folder_loads_whole(folder):
    model = loader.load(folder, dtype="float32", device="cpu")
    assert model.shape == architectures.Shape(2, 2, 16, SHAPE["vocab_size"], 256, group=2)
    assert model.eos_token_ids == {0}
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert model.shape.bytes_per_token(4) == 2 * 2 * 2 * 16 * 4


def test_the_dtype_is_the_checkpoints_unless_asked_otherwise(folder):
    assert loader.load(folder, device="cpu").dtype is torch.float32
    write_config(folder, dtype="bfloat16")
    assert loader.load(folder, device="cpu").dtype is torch.bfloat16
    assert loader.load(folder, dtype="float16", device="cpu").dtype is torch.float16


class Canary:
    """Unpickling this leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


def no_config(folder):
    (folder / "config.json").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled(folder):
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(folder / "canary")))


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def huge_header(folder):
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def missing_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')


def listed_shards(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["model-00002.safetensors"]}')


def numbered_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 2}}')


def missing_tensor(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def more_tensors(folder, *names):
    """Add tensors to the weights, a shape of one number each."""
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name: torch.zeros(1) for name in names}, path, metadata={"format": "pt"})


def fewer_layers(folder):
    write_config(folder, num_hidden_layers=1)


def a_bias(folder):
    more_tensors(folder, "model.layers.1.self_attn.q_proj.bias")


def odd_rope(folder):
    write_config(folder, rope_parameters={"rope_type": "default", "rope_theta": "many"})


def wrong_kind_of_field(folder):
    write_config(folder, num_hidden_layers="two")


def not_json(folder):
    (folder / "config.json").write_text("{")


def too_deep(folder):
    (folder / "config.json").write_text("[" * 100_000)


def not_an_object(folder):
    (folder / "config.json").write_text("[]")


def unknown_kind(folder):
    write_config(folder, model_type="nothing_known")


def remote_code(folder):
    write_config(folder, model_type="custom", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w')")


def wrong_shapes(folder):
    write_config(folder, hidden_size=64)


def wrong_vocabulary(folder):
    """Were these tensors made, they would need 384 GB."""
    write_config(folder, vocab_size=10**9)


def another_name(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def shard_of_another_kind(folder):
    no_weights(folder)
    save_file({"a": torch.zeros(1)}, folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "config.json"}}')


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (no_config, "config.json: no such file"),
        (no_weights, r"no \*.safetensors"),
        (pickled, "pickled"),
        (truncated, "not a readable safetensors"),
        (huge_header, "not a readable safetensors"),
        (missing_shard, "this shard, but it is missing"),
        (listed_shards, "index.json: weight_map is not an object of file names"),
        (numbered_shard, "index.json: weight_map is not an object of file names"),
        (missing_tensor, r"lack 1 of the model's tensors, .*layers\.1\.self_attn\.k_proj"),
        (
            fewer_layers,
            r"hold 9 tensors that the model .* has no place for, the first is model\.layers\.1\.input_layernorm",
        ),
        (
            a_bias,
            r"hold 1 tensor that the model .* has no place for, the first is model\.layers\.1\.self_attn\.q_proj\.bias",
        ),
        (odd_rope, "."),
        (wrong_kind_of_field, "."),
        (not_json, "not readable as JSON"),
        (too_deep, "not readable as JSON"),
        (not_an_object, "not a JSON object"),
        (unknown_kind, "nothing_known"),
        (remote_code, "custom"),
        (wrong_shapes, r"is \[.*48.*\] in the weights, but config.json asks for \[.*64.*\]; \d+ more differ"),
        (
            wrong_vocabulary,
            r"lm_head\.weight is \[211, 48\] in the weights, but config.json asks for \[1000000000, 48\]",
        ),
        (shard_of_another_kind, "header"),
        (another_name, "neither model.safetensors nor"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_broken_folder_is_refused_with_the_reason_and_runs_nothing(folder, damage, words):
    damage(folder)
    with pytest.raises(ModelLoadError, match=words) as caught:
        loader.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert not (folder / "canary").exists()


WRONG_FIELDS = [
    {"num_attention_heads": 3}, {"num_attention_heads": 0}, {"head_dim": 63}, {"hidden_size": "big"},
    {"hidden_size": None}, {"max_position_embeddings": "a"}, {"rope_parameters": "x"}, {"rope_parameters": []},
    {"rope_parameters": {"rope_type": ["a"]}}, {"rope_parameters": {"rope_type": "default", "rope_theta": 0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 1.0, "factor": 0}}, {"eos_token_id": "x"},
    {"quantization_config": "x"},
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=str)
def test_a_wrong_field_is_told_before_the_weights_are_read(folder, fields):
    write_config(folder, **fields)
    with pytest.raises(ModelLoadError) as caught:
        loader.check(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", configs())
def test_the_headers_tell_in_a_line_whether_the_weights_fit(tiny_model, architecture, tmp_path, capfd):
    folder = shutil.copytree(tiny_model(architecture), tmp_path / "model")
    loader.check(folder)
    write_config(folder, vocab_size=10)
    capfd.readouterr()
    with pytest.raises(ModelLoadError, match=r"is \[211, 48\] in the weights, but config\.json asks for \[10, 48\]"):
        loader.check(folder)
    assert capfd.readouterr() == ("", "")


def test_shards_are_one_model_and_files_that_no_index_names_are_none_of_it(folder):
    whole = folder / "model.safetensors"
    places = {}
    for i, (name, tensor) in enumerate(sorted(load_file(whole).items())):
        places[name] = f"model-{i:05}.safetensors"
        save_file({name: tensor}, folder / places[name], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    whole.unlink()
    save_file({"the.same.in.another.form": torch.zeros(1)}, folder / "consolidated.safetensors")
    loader.load(folder, device="cpu")


def test_what_a_model_may_hold_besides(folder):
    """Older files have the rotary frequencies of every layer."""
    more_tensors(folder, "model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
    loader.load(folder, device="cpu")


def test_a_tied_head_may_be_stored(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    write_config(folder, tie_word_embeddings=True)
    loader.load(folder, device="cpu")
    del tensors["lm_head.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    loader.load(folder, device="cpu")


def test_experts_that_are_many_tensors_in_the_files_and_one_in_the_model(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("qwen3_moe"), tmp_path / "model")
    write_config(folder, num_local_experts=3)
    with pytest.raises(ModelLoadError, match=r"experts\.down_proj is \[4, 48, 32\] .* asks for \[3, 48, 32\]"):
        loader.check(folder)


def test_the_check_of_a_good_folder_knows_its_shape(folder):
    checked = loader.check(folder)
    loaded = loader.load(folder, device="cpu")
    assert (checked.shape, checked.eos_token_ids) == (loaded.shape, loaded.eos_token_ids)


def test_code_beside_a_served_model_is_never_run_and_that_is_told(folder, caplog):
    loader.load(folder, device="cpu")
    assert not caplog.records
    write_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w')")
    (folder / "old.bin").write_bytes(b"")
    loader.load(folder, device="cpu")
    assert not (folder / "canary").exists()
    [record] = caplog.records
    assert record.getMessage().endswith("is never run: auto_map in config.json, evil.py, old.bin")


def unserved():
    t = transformers
    small = {k: v for k, v in SHAPE.items() if k not in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return [
        (t.GPT2Config(), "model_type 'gpt2' is not one of those served: gemma2"),
        (t.LlamaConfig(**small, quantization_config={"quant_method": "gptq"}), r"quantised \(gptq\)"),
        (t.Gemma3TextConfig(**small, use_bidirectional_attention=True), "both directions"),
        (t.LlamaConfig(**{**small, "num_key_value_heads": 3}), "cannot share 3 KV heads"),
    ]


@pytest.mark.parametrize(("config", "words"), unserved(), ids=["architecture", "quantised", "bidirectional", "heads"])
def test_what_the_seam_cannot_serve_is_named(config, words, tmp_path):
    with pytest.raises(UnsupportedModel, match=words):
        architectures.check(config, tmp_path)


@pytest.mark.parametrize("value", [0, -2, 1.5, "two", True])
@pytest.mark.parametrize("name", [*architectures.SIZES, *architectures.SIZES_OR_NONE])
def test_a_size_that_is_none_is_named(folder, name, value):
    write_config(folder, **{name: value})
    with pytest.raises(ModelLoadError, match=f"{name}|config.json") as caught:  # transformers checks some itself
        loader.load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_more_heads_than_the_hidden_size_are_refused(tmp_path):
    config = transformers.LlamaConfig(**SHAPE)
    config.head_dim, config.hidden_size, config.num_attention_heads, config.num_key_value_heads = None, 2, 4, 4
    with pytest.raises(UnsupportedModel, match="hidden_size 2 is too small for 4"):
        architectures.check(config, tmp_path)


def test_an_unknown_rotary_type_is_refused(tmp_path):
    config = transformers.LlamaConfig(**SHAPE)
    config.rope_parameters = {"rope_type": "spiral", "rope_theta": 1.0}
    with pytest.raises(UnsupportedModel, match="spiral"):
        architectures.check(config, tmp_path)


def test_every_served_architecture_is_proven():
    assert set(configs()) == set(architectures.SERVED)


def test_a_longrope_model_is_served_up_to_its_original_window(tmp_path):
    """Past it the frequencies would depend on the longest sequence of the batch."""
    half = {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, **half}
    config = transformers.Phi3Config(**SHAPE, original_max_position_embeddings=64, rope_parameters=rope)
    assert architectures.check(config, tmp_path).max_positions == 64
    assert architectures.check(transformers.Phi3Config(**SHAPE), tmp_path).max_positions == 256


def test_a_dtype_that_is_not_served_must_be_chosen(folder):
    write_config(folder, dtype="float8_e4m3fn")
    with pytest.raises(ModelLoadError, match="--dtype"):
        loader.load(folder, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said_so(folder):
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        loader.load(folder, device="cuda")
    assert loader.load(folder, device="auto").device.type == "cpu"


def test_weights_that_a_gpu_has_no_room_for_are_told_by_their_size(folder):
    class Full(torch.nn.Linear):
        def to(self, *_):
            raise torch.OutOfMemoryError

    with pytest.raises(ModelLoadError, match="its weights take 24 bytes, more than cuda has free"):
        loader._placed(Full(2, 2), torch.device("cuda"), folder)


def test_the_fingerprint_is_of_configuration_and_weights(folder):
    before = loader.load(folder, device="cpu").fingerprint
    assert loader.load(folder, device="cpu").fingerprint == before
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    changed = loader.load(folder, device="cpu").fingerprint
    write_config(folder, rms_norm_eps=1e-5)
    assert len({before, changed, loader.load(folder, device="cpu").fingerprint}) == 3


def test_the_fingerprint_is_of_every_byte(tmp_path):
    shard = tmp_path / "model.safetensors"
    data = bytearray(16 << 20)
    found = set()
    for place in (0, 1 << 20, (8 << 20) + 77_777, len(data) - 1):
        data[place] ^= 1
        shard.write_bytes(data)
        found.add(loader._fingerprint({}, [shard]))
    assert len(found) == 4


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [(None, 7, {7}), ([1, 2], 7, {1, 2}), (3, 7, {3}), (None, None, set())],
)
def test_the_ids_that_end_an_answer(tmp_path, generation, config, ids):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert loader.eos_token_ids(tmp_path, {"eos_token_id": config}) == ids


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        (None, {}),
        ({"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": None}, {}),
    ],
)
def test_how_the_makers_want_it_sampled(tmp_path, generation, defaults):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert loader.sampling_defaults(tmp_path) == defaults


@pytest.mark.parametrize(
    "generation", [{"temperature": "hot"}, {"temperature": -5}, {"top_p": 7}, {"top_k": 1.5}, {"min_p": float("nan")}]
)
def test_a_wish_that_no_request_may_have_is_the_folders_fault(tmp_path, generation):
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(ModelLoadError, match=rf"generation_config\.json: .*{next(iter(generation))}"):
        loader.sampling_defaults(tmp_path)


@pytest.mark.parametrize("ids", ["x", [1, "x"], True, 1.5, {}])
def test_an_end_that_is_no_token_is_named_with_its_file(folder, ids):
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_config(folder, eos_token_id=ids)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        loader.load(folder, device="cpu")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    write_config(folder, eos_token_id=0)
    with pytest.raises(ModelLoadError, match=r"generation_config\.json: eos_token_id"):
        loader.load(folder, device="cpu")
