"""Random pages to attend over, and what every backend must give for them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from chatpager.kernels import cpu, paged_attention, reference
from chatpager.kernels.arguments import check
from chatpager.kernels.heuristics import Splits

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass
class Problem:
    """Arguments of one call. ``options`` are keywords that the reference knows too."""

    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    max_context_len: int | None = None

    def expected(self) -> tuple[Tensor, Tensor]:
        on_cpu = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in self.options.items()}
        tensors = (self.query, self.key_cache, self.value_cache, self.block_tables, self.context_lens)
        return reference.forward(*(t.cpu() for t in tensors), **on_cpu)

    def with_options(self, **options: Any) -> Problem:
        return replace(self, options={**self.options, **options})

    def to(self, device: str) -> Problem:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        tensors = (self.query, self.key_cache, self.value_cache, self.block_tables, self.context_lens)
        return Problem(*(move(t, device) for t in tensors), moved, self.max_context_len)


def move(tensor: Tensor, device: str) -> Tensor:
    """``tensor`` on ``device`` with the strides it has, views of larger storages included."""
    if tensor.device.type == device:
        return tensor
    size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
    storage = tensor.as_strided((size,), (1,)).to(device)
    return storage.as_strided(tensor.shape, tensor.stride())


def pages(
    context_lens: list[int],
    query_lens: list[int] | None = None,
    *,
    heads: int = 2,
    kv_heads: int = 1,
    head_dim: int = 16,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """Rows in pages of a random order, never one after the other; table entries past the context are out of range."""
    torch.manual_seed(seed)
    needed = [-(-n // block_size) for n in context_lens]
    width = max(needed, default=0) + 1
    order = 2 * torch.randperm(sum(needed) + 1)
    tables = torch.full((len(needed), width), 2**31 - 1, dtype=torch.int32)
    taken = 0
    for row, count in enumerate(needed):
        tables[row, :count] = order[taken : taken + count]
        taken += count
    caches = torch.randn(2, 2 * len(order), block_size, kv_heads, head_dim).to(dtype)
    if query_lens is not None:
        options["query_start"] = torch.tensor([0, *query_lens]).cumsum(0).int()
    tokens = len(context_lens) if query_lens is None else sum(query_lens)
    query = torch.randn(tokens, heads, head_dim).to(dtype)
    return Problem(query, caches[0], caches[1], tables, torch.tensor(context_lens, dtype=torch.int32), options)


def far_apart(file: Path, block_size: int, kv_heads: int, head_dim: int) -> Tensor:
    """A cache of three blocks in half precision that lie 2^30 elements apart: offsets into the third pass 31 bits. It
    is a sparse file, since memory between the blocks is never touched."""
    stride = 2**30 + 16
    size = 2 * stride + block_size * kv_heads * head_dim
    memory = torch.from_numpy(numpy.memmap(file, numpy.float16, "w+", shape=(size,)))
    return memory.as_strided((3, block_size, kv_heads, head_dim), (stride, kv_heads * head_dim, head_dim, 1))


class Backend:
    """One way to compute a problem: ``cpu`` and ``cuda`` through the public function, beneath it the interpreter and
    ``cpu-gathered``, which leaves to torch what numba would serve."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.device = "cuda" if name == "cuda" else "cpu"

    @property
    def dtypes(self) -> list[torch.dtype]:
        every = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
        return {"cpu": every, "cpu-gathered": every, "triton-interpret": every[:2], "cuda": every[:3]}[self.name]

    def __call__(
        self, problem: Problem, splits: Splits | None = None, *, return_lse: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Output and log-sum-exp on the CPU; the output starts as NaN, so that what is not written shows."""
        problem = problem.to(self.device)
        longest = int(problem.context_lens.max()) if len(problem.context_lens) else 0
        longest = longest if problem.max_context_len is None else problem.max_context_len
        out = torch.full(problem.query.shape, torch.nan, dtype=problem.query.dtype, device=self.device)
        options = {"out": out, **problem.options}
        arguments = (
            problem.query,
            problem.key_cache,
            problem.value_cache,
            problem.block_tables,
            problem.context_lens,
            problem.key_cache.shape[1],
            longest,
        )
        if self.name == "cpu-gathered":
            call = check(*arguments, return_lse=return_lse, **options)
            cpu.attend(call, gather=True)
            return call.out, call.lse
        if self.name != "triton-interpret" and splits is None:
            found = paged_attention.forward(*arguments, return_lse=return_lse, **options)
            return (found[0].cpu(), found[1].cpu()) if return_lse else (found.cpu(), None)
        from chatpager.kernels import cuda

        assert (self.device == "cpu") == cuda.INTERPRETED, "triton was imported before tests/conftest.py"
        call = check(*arguments, return_lse=return_lse, **options)
        with numpy.errstate(invalid="ignore"):  # of the interpreter: rows of padding, which nobody stores, may be NaN
            cuda.attend(call, splits)
        return call.out.cpu(), call.lse.cpu() if return_lse else None


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative root-mean-square error, and no infinity or NaN that is not expected."""
    assert torch.equal(actual.isinf(), expected.isinf())
    actual, expected = (torch.where(x.isinf(), 0, x).double() for x in (actual, expected))
    error = (actual - expected).norm() / expected.norm().clamp(min=1e-6 * max(expected.numel(), 1) ** 0.5)
    assert error <= tolerance, f"relative error {error:.3g} exceeds {tolerance:g}"


def assert_right(backend: Backend, problem: Problem, splits: Splits | None = None) -> None:
    """The backend gives what the definition says, log-sum-exp included."""
    out, lse = backend(problem, splits)
    expected_out, expected_lse = problem.expected()
    tolerance = TOLERANCE[problem.query.dtype]
    assert_close(out, expected_out, tolerance)
    assert_close(lse, expected_lse, tolerance)
