"""Whether a folder's weights are those that its configuration asks for, told from the headers of their files alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from chatpager.engine import architectures
from chatpager.engine.lean_imports import with_all_kernels
from chatpager.engine.model_folder import one_line, read_json
from chatpager.errors import ModelLoadError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class _Header:
    """Stands for a tensor of a file, of which it has the shape alone. transformers takes it as it takes the slices that
    safetensors gives: all of one is asked for, then moved; here to torch's meta device, where it needs no memory."""

    def __init__(self, shape: list[int]) -> None:
        self.shape = shape

    def __getitem__(self, _: object) -> _Header:
        return self

    def to(self, device: object = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(self.shape, dtype=dtype, device="meta")


def check(path: Path, config: Any) -> None:
    """Compare the headers with what ``config`` asks for; transformers' conversions of names and shapes are done.

    Raises:
        ModelLoadError: a tensor is of another shape, is not there, or has no place in the model; or a header cannot be
            read, or no model be built.
    """
    transformers.utils.logging.disable_progress_bar()

    def report_of_sketch() -> Any:
        return _sketch(config).from_pretrained(
            None,
            config=config,
            state_dict=_headers(path),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )[1]

    try:
        with _no_report():
            report = with_all_kernels(report_of_sketch)
    except ModelLoadError:
        raise
    except Exception as error:  # a configuration may be wrong in any way
        raise ModelLoadError(path, one_line(error)) from error
    refuse(report, path)


def _headers(path: Path) -> dict[str, _Header]:
    tensors: dict[str, _Header] = {}
    for file in files(path):
        with safe_open(file, "pt") as opened:
            tensors |= {name: _Header(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return tensors


def files(path: Path) -> list[Path]:
    """Those that transformers reads; a folder may hold more, as the same weights in another form."""
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    places = read_json(path / INDEX, required=False).get("weight_map", {})
    if not places:
        raise ModelLoadError(path, f"neither {SINGLE} nor {INDEX} in it")
    return [path / name for name in sorted(set(places.values()))]


def refuse(report: dict[str, Any], path: Path) -> None:
    """Raises ModelLoadError where transformers' report of a load tells that it was not of the whole model."""
    if wrong := sorted(report["mismatched_keys"]):
        name, stored, asked = wrong[0]
        more = f"; {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise ModelLoadError(
            path, f"{name} is {list(stored)} in the weights, but config.json asks for {list(asked)}{more}"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(path, f"the weights lack {len(missing)} of the model's tensors, the first is {missing[0]}")
    if leftover := sorted(report["unexpected_keys"]):  # less those that transformers knows to be of no use
        count = f"{len(leftover)} tensor{'s' if len(leftover) > 1 else ''}"
        reason = f"the weights hold {count} that the model of config.json has no place for, the first is {leftover[0]}"
        raise ModelLoadError(path, reason)


def _sketch(config: Any) -> Any:
    """The model's class without the step that makes up what the files lack: that would take the memory of all of it."""
    model_class = getattr(transformers, architectures.SERVED[config.model_type])
    steps = ("_move_missing_keys_from_meta_to_device", "_initialize_missing_keys")
    return type(model_class.__name__, (model_class,), dict.fromkeys(steps, lambda *_, **__: None))


@contextmanager
def _no_report() -> Iterator[None]:
    """transformers writes a table of what ``refuse`` tells in a line."""
    # Not by its level: from one of its own on, transformers warns of plans for many devices.
    logger = logging.getLogger("transformers.modeling_utils")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
