"""What crosses between the first rank and the others: msgpack behind its length, over pipes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, BinaryIO

import msgspec
import torch

from chatpager.config import EngineConfig
from chatpager.engine.batch import Batch

LENGTH = 8
"""Bytes that say how long a frame is."""


class Settings(msgspec.Struct, frozen=True):
    """The first frame. ``place`` is the file at which the ranks meet; ``threads`` are of a step on a CPU."""

    config: EngineConfig
    rank: int
    place: str
    threads: int


class Meet(msgspec.Struct, frozen=True, tag="meet"):
    """Every rank has loaded its part."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Allocate a KV cache in place of the present one."""

    blocks: int


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """From now on count how much memory a step takes."""


class Room(msgspec.Struct, frozen=True, tag="room"):
    """How many bytes are there for the KV cache, beside a step? There is none then."""


class Array(msgspec.Struct, frozen=True, array_like=True):
    """A tensor's numbers."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Step(msgspec.Struct, frozen=True, tag="step"):
    """What of a ``Batch`` the model reads."""

    arrays: dict[str, Array]
    numbers: dict[str, int | bool]


class ReadBlocks(msgspec.Struct, frozen=True, tag="read"):
    ids: list[int]


class WriteBlocks(msgspec.Struct, frozen=True, tag="write"):
    ids: list[int]
    contents: list[bytes]


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    value: int | list[bytes] | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The rank lives on, but for its start."""

    why: str


Down = Meet | Open | Measure | Room | Step | ReadBlocks | WriteBlocks
Up = Answer | Failed
_encoder = msgspec.msgpack.Encoder()
down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)
up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
settings: msgspec.msgpack.Decoder[Settings] = msgspec.msgpack.Decoder(Settings)


def framed(message: Any) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH, "little") + body


def read(pipe: BinaryIO) -> bytes:
    """The next frame's body. Raises EOFError: whoever wrote them has gone."""
    head = pipe.read(LENGTH)
    body = pipe.read(int.from_bytes(head, "little")) if len(head) == LENGTH else b""
    if not body:  # no message is empty
        raise EOFError
    return body


_FIRST_ONLY = "logit_indices", "fed"


def step_of(batch: Batch) -> Step:
    """Nobody but the first rank samples, so the others are asked for no logits; and its tokens are there, also those
    that it took from the step before."""
    arrays: dict[str, Array] = {}
    numbers: dict[str, int | bool] = {}
    for name in (field.name for field in fields(batch)):
        value = getattr(batch, name)
        if isinstance(value, torch.Tensor):
            on_host = (value[:0] if name in _FIRST_ONLY else value).cpu()
            dtype = str(on_host.dtype).removeprefix("torch.")
            arrays[name] = Array(dtype, tuple(on_host.shape), on_host.contiguous().numpy().tobytes())
        elif isinstance(value, int):
            numbers[name] = value
    return Step(arrays, numbers)


def batch_of(step: Step, device: torch.device) -> Batch:
    arrays: Any = {name: _tensor(array, device) for name, array in step.arrays.items()}
    numbers: Any = step.numbers
    return Batch(**arrays, **numbers, samples=(), lengths=(), rows=())


def _tensor(array: Array, device: torch.device) -> torch.Tensor:
    dtype = getattr(torch, array.dtype)
    flat = torch.frombuffer(bytearray(array.data), dtype=dtype) if array.data else torch.empty(0, dtype=dtype)
    return flat.view(array.shape).to(device)
