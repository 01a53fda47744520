"""Compile the kernels for GPUs that are not here, and print what came out as JSON: one object a variant.

Run as ``python -m tests.kernels.aot commit`` or ``... nightly``, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chatpager.kernels import cuda_sampling as sampling
from chatpager.kernels.configurations import Shape, Tiling, tilings
from chatpager.kernels.cuda_rows import gate_kernel, norm_kernel, norm_warps, rotate_constants, rotate_store_kernel
from chatpager.kernels.cuda_sampling import cut_kernel, mass_kernel, peak_kernel, pick_kernel
from chatpager.kernels.cuda_store import copy_kernel, store_eight_constants, store_eight_kernel, store_kernel
from chatpager.kernels.decode import decode_kernel
from chatpager.kernels.extend import extend_kernel
from chatpager.kernels.heuristics import decode_tiling, extend_tiling
from chatpager.kernels.merge import merge_kernel
from chatpager.kernels.planner import plan_kernel
from chatpager.kernels.prefix import prefix_kernel
from chatpager.kernels.split_cut import CHUNK, PIVOTS, look_kernel, settle_kernel
from chatpager.kernels.variants import Variant, merge_constants
from tests.kernels.pairs import all_pairs

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_MEMORY = {"sm_80": 166_912, "sm_86": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Case:
    """A kernel as one model and one GPU would have it compiled. ``features`` is a subset of window, softcap, sinks,
    lse; ``cache`` the caches' type where it is not ``dtype``; ``queries`` the longest run of new tokens, for extend."""

    target: str
    kernel: str
    dtype: str = "bf16"
    head_dim: int = 128
    group: int = 4
    block_size: int = 16
    kv_heads: int = 8
    features: tuple[str, ...] = ()
    split: bool = True
    cache: str = ""
    queries: int = 4096

    def tiling(self) -> Tiling:
        shape = self.head_dim, self.group, ITEMSIZE[self.dtype]
        shared = SHARED_MEMORY[self.target]
        if self.kernel == "decode":
            return decode_tiling(*shape, shared, bool(self.cache), self.target)
        return extend_tiling(*shape, self.queries, shared, bool(self.cache), self.target)

    def is_by_rule(self) -> bool:
        """Whether the rules alone say the same."""
        shape, shared = (self.head_dim, self.group, ITEMSIZE[self.dtype]), SHARED_MEMORY[self.target]
        if self.kernel == "decode":
            return self.tiling() == decode_tiling(*shape, shared, bool(self.cache))
        return self.tiling() == extend_tiling(*shape, self.queries, shared, bool(self.cache))


PARAMETERS: dict[str, tuple[Any, ...]] = {
    "target": tuple(TARGETS),
    "kernel": ("decode", "extend", "prefix"),
    "dtype": ("bf16", "fp16", "fp32"),
    "head_dim": (64, 80, 96, 128, 256),
    "block_size": (8, 16, 32, 64, 128),
    "group": (1, 2, 3, 4, 5, 6, 7, 8, 16),
    "features": (
        (),
        ("window",),
        ("softcap",),
        ("sinks",),
        ("lse",),
        ("window", "softcap"),
        ("window", "sinks", "lse"),
    ),
    "split": (False, True),
    "queries": (8, 4096),
}
"""What a variant is made of, and the values that are served."""


EIGHT_BITS = [*((target, "i8") for target in TARGETS), ("sm_90", "fp8e4nv"), ("sm_100", "fp8e4nv")]
"""Types of caches beside scales; NVIDIA's cards before Hopper and Ada have no instruction for the shorter floats."""


def commit() -> Iterator[Case]:
    """What a commit has the time for: every two values of two parameters together."""
    for row in all_pairs(PARAMETERS):
        yield Case(**row)
    for kernel in PARAMETERS["kernel"]:
        yield Case("sm_90", kernel, group=7, block_size=24, split=False)
        for target, kept in EIGHT_BITS:
            if kernel != "prefix" or target in ("sm_90", "gfx942"):  # what it has of its own is in extend, too
                yield Case(target, kernel, cache=kept)
    for target in TARGETS:
        for kernel in OTHERS:
            if kernel != "store eight" and (target in ("sm_90", "gfx942") or not kernel.endswith("shared")):
                yield Case(target, kernel)
    for target, kept in EIGHT_BITS:
        for kernel in ("rotate", "store eight"):
            yield Case(target, kernel, cache=kept)
    yield from (case for case in map(in_table, tilings()) if not case.is_by_rule())


def in_table(shape: Shape) -> Case:
    """A shape of the table of configurations."""
    queries, kept = 64 // shape.group if shape.few else 4096, "i8" if shape.eight_bits else ""
    kind = "bf16" if shape.itemsize == 2 else "fp32"
    return Case(shape.target, shape.kernel, kind, shape.head_dim, shape.group, cache=kept, queries=queries)


def nightly() -> Iterator[Case]:
    """Every head dimension, dtype, page size and feature on every target."""
    yield from commit()
    yield from map(in_table, tilings())
    every = ((), ("window",), ("softcap",), ("sinks",), ("window", "softcap"), ("window", "sinks", "lse"))
    for target in TARGETS:
        for kernel in PARAMETERS["kernel"]:
            for head_dim in (16, 32, 64, 80, 96, 128, 192, 256):
                for block_size in (8, 16, 32, 64, 128):
                    yield Case(target, kernel, head_dim=head_dim, block_size=block_size)
                    yield Case(target, kernel, head_dim=head_dim, block_size=block_size, queries=8, split=False)
                yield Case(target, kernel, "fp32", head_dim=head_dim)
                for features in every:
                    yield Case(target, kernel, "fp16", head_dim=head_dim, features=features, split=False)
            for group in (1, 2, 3, 5, 6, 7, 8, 12, 16, 32):
                yield Case(target, kernel, group=group, block_size=64)
        for head_dim in (64, 128, 256):
            for kernel in ("merge", "store", "copy", "rotate"):
                yield Case(target, kernel, head_dim=head_dim)


def source(kernel: Any, case: Case, constants: dict[str, int]) -> ASTSource:
    """The kernel with the types and the divisibility that a launch would find."""
    pointer = f"*{case.dtype}"
    kinds = dict.fromkeys(("p_slots", "p_pairs", "p_tokens", "p_seeds", "p_positions"), "*i64")
    kinds |= dict.fromkeys(("p_peaks", "p_peak", "p_logits", "p_temperature", "p_top_p", "p_log_min_p"), "*fp32")
    cached = f"*{case.cache or case.dtype}"
    kinds |= dict.fromkeys(("p_key_cache", "p_value_cache"), cached)
    if case.kernel in PARAMETERS["kernel"]:
        kinds |= dict.fromkeys(("p_key", "p_value"), cached)
    kinds |= dict.fromkeys(("p_key_scales", "p_value_scales"), "*fp32" if case.cache else "constexpr")
    kinds |= dict.fromkeys(("p_new_state", "p_old_state", "p_new_sums", "p_old_sums"), "*i64")
    kinds |= dict.fromkeys(("p_new_counts", "p_old_counts"), "*i32")
    kinds |= {"p_masses": "*fp64", "p_cuts": "*i32", "p_top_k": "*i32", "eps": "fp32"}
    kinds |= dict.fromkeys(("p_tables", "p_context", "p_start", "p_starts", "p_members", "p_lengths"), "*i32")
    kinds |= {"p_shared": "*i32" if constants.get("SHARED") else "constexpr"}
    in_parts = case.split or case.kernel == "prefix"
    kinds |= dict.fromkeys(("p_part_out", "p_part_lse"), "*fp32" if in_parts else "constexpr")
    kinds |= dict.fromkeys(("p_items", "p_rows"), "*i32" if case.split else "constexpr")
    kinds |= {"p_lse": "*fp32" if "lse" in case.features else "constexpr"}
    kinds |= {"p_sinks": "*bf16" if "sinks" in case.features else "constexpr"}
    kinds |= {"score_scale": "fp32", "softcap": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {n: kinds.get(n, pointer if n.startswith("p_") else "i32") for n in kernel.arg_names}
    values = {n: constants.get(n) for n, kind in signature.items() if kind == "constexpr"}
    loose = {*kernel.do_not_specialize, *kernel.do_not_specialize_on_alignment}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if name not in loose and kind not in ("constexpr", "fp32")
    }
    return ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)


def cache(case: Case) -> torch.Tensor:
    return torch.empty(1, case.block_size, case.kv_heads, case.head_dim, device="meta")


def layout(case: Case) -> dict[str, int]:
    block, slot, head, _ = cache(case).stride()
    strides = {"STRIDE_BLOCK": block, "STRIDE_SLOT": slot, "STRIDE_HEAD": head}
    return {**strides, "HEAD_DIM": case.head_dim, "BLOCK_SIZE": case.block_size}


def rotate(case: Case) -> tuple[Any, dict[str, int], int]:
    heads = case.group * case.kv_heads, case.kv_heads
    return rotate_store_kernel, rotate_constants(heads, cache(case), normed=True, scaled=bool(case.cache)), 4


def store(case: Case) -> tuple[Any, dict[str, int], int]:
    return store_kernel, layout(case) | {"WIDTH": case.kv_heads * case.head_dim, "BLOCK": 1024}, 4


def merge(case: Case) -> tuple[Any, dict[str, int], int]:
    shared = case.kernel == "merge shared"
    return merge_kernel, merge_constants(case.kv_heads * case.group, case.head_dim, True, False, shared), 4


def plan(case: Case) -> tuple[Any, dict[str, int], int]:
    shared = case.kernel == "plan shared"
    return plan_kernel, {"HAS_WINDOW": not shared, "SHARED": shared, "TILE": 64, "BATCH": 256, "WIDTH": 64}, 4


def copy(case: Case) -> tuple[Any, dict[str, int], int]:
    return copy_kernel, layout(case) | {"KV_HEADS": case.kv_heads, "BLOCK": 1024}, 4


SAMPLING = {"BLOCK": sampling.BLOCK, "BLOCKS": 32}
SPLIT = SAMPLING | {"PIVOTS": PIVOTS}
OTHERS: dict[str, Callable[[Case], tuple[Any, dict[str, int], int]]] = {
    "plan": plan,
    "plan shared": plan,
    "merge": merge,
    "merge shared": merge,
    "store": store,
    "copy": copy,
    "store eight": lambda case: (store_eight_kernel, store_eight_constants(cache(case)), 4),
    "rotate": rotate,
    "norm": lambda _: (norm_kernel, {"DIM": 4096, "HAS_DELTA": True, "BLOCK": 4096}, norm_warps(4096)),
    "gate": lambda _: (gate_kernel, {"DIM": 14_336, "BLOCK": 1024}, 4),
    "peak": lambda _: (peak_kernel, {"BLOCK": sampling.BLOCK}, 4),
    "cut": lambda _: (cut_kernel, SAMPLING, 8),
    "first look": lambda _: (look_kernel, SPLIT | {"CHUNK": CHUNK, "FIRST": True}, 8),
    "look": lambda _: (look_kernel, SPLIT | {"CHUNK": CHUNK, "FIRST": False}, 8),
    "settle": lambda _: (settle_kernel, SPLIT, 8),
    "mass": lambda _: (mass_kernel, {"BLOCK": sampling.BLOCK}, 4),
    "pick": lambda _: (pick_kernel, SAMPLING, 4),
}
"""The kernels beside attention: what is launched with which constants and how many warps."""


def compile_case(case: Case) -> dict[str, Any]:
    strides = (case.block_size * case.kv_heads * case.head_dim, case.kv_heads * case.head_dim, case.head_dim)
    options: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}
    if case.kernel in OTHERS:
        kernel, constants, options["num_warps"] = OTHERS[case.kernel](case)
    else:
        tiling = case.tiling()
        variant = Variant(
            case.kv_heads,
            case.group,
            case.head_dim,
            case.block_size,
            strides,
            bool(case.cache),
            *(feature in case.features for feature in ("window", "softcap", "sinks", "lse")),
            case.split,
            tiling,
        )
        kernel = {"decode": decode_kernel, "extend": extend_kernel, "prefix": prefix_kernel}[case.kernel]
        constants = variant.prefix_constants() if case.kernel == "prefix" else variant.constants()
        options |= {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages}
    began = time.perf_counter()
    compiled = triton.compile(source(kernel, case, constants), target=TARGETS[case.target], options=options)
    seconds = time.perf_counter() - began
    found = amd_facts(compiled) if case.target == "gfx942" else nvidia_facts(compiled)
    limit = SHARED_MEMORY[case.target]
    tile = asdict(case.tiling()) if case.kernel in PARAMETERS["kernel"] else {}
    return asdict(case) | {"tiling": tile, "seconds": round(seconds, 2), "shared_limit": limit} | found


def nvidia_facts(compiled: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage).groups())
    ptx = compiled.asm["ptx"]
    inside = "\n".join(loops(ptx))
    return {
        "registers": registers,
        "spilled": stack + local,
        "shared": compiled.metadata.shared,
        "wgmma": inside.count("wgmma.mma_async"),
        "mma": len(re.findall(r"\bmma\.sync|tcgen05\.mma", inside)),
        "async_copies": len(re.findall(r"cp\.async\.c[ag]\.shared\.global.*, 0x10", inside)),
        "narrow_loads": len(re.findall(r"ld\.global[\w.:]*\.[bu](?:8|16)\b", inside)),
    }


def loops(ptx: str) -> list[str]:
    """The bodies of the loops: what lies between a label and a later branch back to it."""
    labels = {found[1]: found.end() for found in re.finditer(r"^(\$L\w+):", ptx, re.MULTILINE)}
    branches = [(found[1], found.start()) for found in re.finditer(r"\bbra(?:\.uni)?\s+(\$L\w+);", ptx)]
    return [ptx[labels[to] : at] for to, at in branches if to in labels and labels[to] < at]


def amd_facts(compiled: Any) -> dict[str, Any]:
    """Spilled vector registers only: a scalar one goes to a lane of a vector register, not to memory."""
    text = compiled.asm["amdgcn"]
    return {
        "registers": int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1]),
        "spilled": int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1]),
        "shared": compiled.metadata.shared,
        "mma": text.count("v_mfma"),
        "narrow_loads": len(re.findall(r"global_load_(?:u?short|u?byte|d16)", text)),
    }


if __name__ == "__main__":
    cases = {"commit": commit, "nightly": nightly}[sys.argv[1]]
    wanted = sys.argv[2:]
    print(json.dumps([compile_case(c) for c in dict.fromkeys(cases()) if not wanted or c.target in wanted]))
