"""From a folder to a model: safetensors only, no code from the folder, refused with a reason or loaded whole."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
import xxhash
from safetensors import SafetensorError, safe_open

from chatpager.engine import architectures, checkpoint, cpu_modules, cpu_stack, gpu_layers, tensor_parallel
from chatpager.engine.architectures import Shape
from chatpager.engine.attention import ATTENTION, register
from chatpager.engine.cpu_linears import Maker
from chatpager.engine.lean_imports import with_all_kernels
from chatpager.engine.model_folder import one_line, read_json, require_folder
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.tensor_parallel import Part, Sums
from chatpager.errors import ConfigError, InvalidRequest, ModelLoadError

log = logging.getLogger(__name__)

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
PIECE = 1 << 20
SHOWN_FILES = 8
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class LoadedModel:
    module: torch.nn.Module
    config: Any
    shape: Shape
    dtype: torch.dtype
    device: torch.device
    eos_token_ids: frozenset[int]
    fingerprint: bytes
    """Of the configuration and the weights: KV of one fingerprint is never used for another."""


@dataclass(frozen=True)
class Checked:
    """What the configuration and the files' headers tell of a folder that can be loaded."""

    config: Any
    raw_config: dict[str, Any]
    shape: Shape
    eos_token_ids: frozenset[int]
    shards: list[Path]


@dataclass(frozen=True)
class Split:
    """Which part of the model is to be loaded, and what adds up its products and the others'."""

    part: Part
    sums: Sums


def check(path: Path) -> Checked:
    """All that can be known of the model in ``path`` without reading its weights.

    To be called before anything else is loaded from the folder: transformers' tokenizers read config.json too, and say
    less of what is wrong with it.

    Raises:
        ModelLoadError: the folder lacks something, holds pickled weights or others than its configuration asks for, or
            a file is broken.
        UnsupportedModel: the architecture cannot be served.
    """
    raw = read_config(path)
    shards = weight_files(path)
    config = configuration(path, raw)
    shape = architectures.check(config, path)
    ends = eos_token_ids(path, raw)
    checkpoint.check(path, config)
    return Checked(config, raw, shape, ends, shards)


def load(
    path: Path, *, dtype: str = "auto", device: str = "auto", quantization: str = "none", split: Split | None = None
) -> LoadedModel:
    """Load the model in ``path`` with chatpager's attention; with a ``split``, which ``tensor_parallel.check`` takes, a
    part of it: its shape is that of the part, and its logits are right on rank 0 only.

    Raises:
        what ``check`` does.
        ModelLoadError: the device is not there, or the weights' numbers are of a type that is not served.
        ConfigError: weights cannot be quantised on that device, or beside numbers of that type.
    """
    checked = check(path)
    if passed_over := code_in(path, checked.raw_config):
        log.warning("code in %s is never run: %s", path, ", ".join(passed_over[:SHOWN_FILES]))
    place = _device(device)
    if split and place.type == "cuda":
        place = torch.device("cuda", split.part.rank)
        torch.cuda.set_device(place)
    kind_of_number = _dtype(dtype, checked.config, path)
    if quantization != "none" and (place.type != "cpu" or kind_of_number not in (torch.float32, torch.bfloat16)):
        raise ConfigError("quantization", "int8 is for a CPU, with dtype float32 or bfloat16", value=quantization)
    checked = checked if split is None else _part_of(checked, split.part, path)
    module = _placed(_module(path, checked.config, kind_of_number, split.part if split else None), place, path).eval()
    module.requires_grad_(False)
    if place.type == "cpu":
        maker = Maker(int8=quantization == "int8")
        cpu_stack.exchange_layers(module, maker)
        cpu_modules.exchange_linears(module, maker)
    else:
        gpu_layers.exchange_layers(module)
    if split:
        tensor_parallel.add_up(module, split.sums)
    if place.type == "cpu":
        module = cpu_stack.shortened(module)
    names_blocks = split is None or split.part.rank == 0
    fingerprint = _fingerprint(checked.raw_config, checked.shards, quantization) if names_blocks else b""
    return LoadedModel(module, checked.config, checked.shape, kind_of_number, place, checked.eos_token_ids, fingerprint)


# A folder may be broken in any way, and transformers' validators raise what they like: every exception is the folder's.


def configuration(path: Path, raw: dict[str, Any]) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        reason = f"transformers cannot read it (model_type {raw.get('model_type')!r}): {one_line(error)}"
        raise ModelLoadError(path / "config.json", reason) from error


def _part_of(checked: Checked, part: Part, path: Path) -> Checked:
    config = tensor_parallel.config_of(checked.config, part)
    return replace(checked, config=config, shape=architectures.check(config, path))


def _module(path: Path, config: Any, dtype: torch.dtype, part: Part | None) -> torch.nn.Module:
    """The model with every tensor from the folder, or the ``part`` that ``config`` is of; none is made up."""
    tensors = tensor_parallel.tensors_of(checkpoint.files(path), part) if part else None
    register()
    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, architectures.SERVED[config.model_type])

    def load_with_report() -> Any:
        return model_class.from_pretrained(
            path if tensors is None else None,
            state_dict=tensors,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=ATTENTION,
            local_files_only=True,
            output_loading_info=True,
        )

    try:
        module, report = with_all_kernels(load_with_report)
    except Exception as error:
        raise ModelLoadError(path, one_line(error)) from error
    checkpoint.refuse(report, path)
    if part and part.rank:
        module.lm_head = torch.nn.Identity()  # nobody asks it
    return module


def _placed(module: torch.nn.Module, place: torch.device, path: Path) -> torch.nn.Module:
    size = sum(weight.nbytes for weight in module.parameters())
    try:
        return module.to(place)
    except torch.OutOfMemoryError as error:
        reason = f"its weights take {size:,} bytes, more than {place} has free; serve a smaller model, or split it"
        raise ModelLoadError(path, reason) from error


def read_config(path: Path) -> dict[str, Any]:
    """config.json as a dictionary; ``auto_map`` and Python files beside it are never used."""
    require_folder(path)
    return read_json(path / "config.json", required=True)


def code_in(path: Path, raw_config: dict[str, Any]) -> list[str]:
    """What of a folder other programs would run."""
    asked = ["auto_map in config.json"] if raw_config.get("auto_map") else []
    return asked + [file.name for pattern in ("*.py", *PICKLES) for file in sorted(path.glob(pattern))]


def weight_files(path: Path) -> list[Path]:
    """The folder's safetensors files, each with a readable header."""
    shards = sorted(path.glob("*.safetensors"))
    if not shards:
        pickled = [p.name for pattern in PICKLES for p in path.glob(pattern)]
        if pickled:
            raise ModelLoadError(
                path,
                f"the weights are pickled ({pickled[0]}), and unpickling runs code; convert them to safetensors",
            )
        raise ModelLoadError(path, "no *.safetensors file in it")
    index = path / checkpoint.INDEX
    places = read_json(index, required=False).get("weight_map", {})
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelLoadError(index, "weight_map is not an object of file names")
    for name in sorted(set(places.values())):
        if not (path / name).is_file():
            raise ModelLoadError(path / name, "the index names this shard, but it is missing")
    for shard in shards:
        try:
            with safe_open(shard, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(shard, f"not a readable safetensors file: {one_line(error)}") from error
    return shards


def eos_token_ids(path: Path, config: dict[str, Any]) -> frozenset[int]:
    """Ids that end an answer: the generation config's, or else the model config's."""
    generation = read_json(path / GENERATION, required=False)
    file, held = (GENERATION, generation) if "eos_token_id" in generation else ("config.json", config)
    value = held.get("eos_token_id")
    if value is None:
        return frozenset()
    ids = value if isinstance(value, list) else [value]
    if not all(type(i) is int for i in ids):
        raise ModelLoadError(path / file, f"eos_token_id is {value!r}, not a token's number or a list of them")
    return frozenset(ids)


def has_gpu(device: str) -> bool:
    """Whether a model on ``device`` (auto, cpu or cuda) would run on a GPU."""
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if has_gpu(name) else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device cuda", "torch sees no CUDA device; use --device cpu")
    return torch.device(name)


def _dtype(name: str, config: Any, path: Path) -> torch.dtype:
    if name != "auto":
        return DTYPES[name]
    stored = getattr(config, "dtype", None) or torch.float32
    if stored not in DTYPES.values():
        raise ModelLoadError(path, f"its dtype {stored} is not served; choose one with --dtype")
    return stored


def _fingerprint(config: dict[str, Any], shards: list[Path], quantization: str = "none") -> bytes:
    """Hash of the configuration and of every byte of the weights: KV on disk outlives the process, and weights that
    were changed in place must not find what the old ones computed."""
    digest = xxhash.xxh3_128(json.dumps(config, sort_keys=True).encode())
    for shard in shards:
        size = shard.stat().st_size
        digest.update(f"{shard.name}:{size}:".encode())
        with shard.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    if quantization != "none":
        digest.update(quantization.encode())
    return digest.digest()


def sampling_defaults(path: Path) -> dict[str, Any]:
    """How the model's makers want it sampled, in ``SamplingParams``' names; what they leave open is absent.

    Raises:
        ModelLoadError: a value that no request may have.
    """
    generation = read_json(path / GENERATION, required=False)
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    wanted = {name: generation[name] for name in names if generation.get(name) is not None}
    if generation.get("do_sample") is False:
        wanted["temperature"] = 0.0
    try:
        msgspec.convert(wanted, SamplingParams)
    except (msgspec.ValidationError, InvalidRequest) as error:
        raise ModelLoadError(path / GENERATION, one_line(error)) from error
    return wanted
