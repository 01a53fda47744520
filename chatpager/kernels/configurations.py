"""The checked-in table of configurations: what was measured or decided for shapes that are known."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("configurations.toml")


@dataclass(frozen=True, slots=True)
class Tiling:
    """ROWS query rows against TILE tokens at a time."""

    rows: int
    tile: int
    num_warps: int
    num_stages: int


class Shape(NamedTuple):
    """What a tiling is chosen by. ``target``: sm_90, gfx942 and so on; ``few``: of extend, no more than 64 rows of a
    product."""

    kernel: str
    target: str
    head_dim: int
    group: int
    itemsize: int
    eight_bits: bool = False
    few: bool = False


@dataclass(frozen=True, slots=True)
class SharedPrefixGate:
    """From what on rows attend to a prefix together: ``tokens`` of it, ``rows`` of one product (members times the query
    heads of a KV head), and ``saved_bytes`` a layer."""

    tokens: int
    rows: int
    saved_bytes: int


@lru_cache
def tilings() -> dict[Shape, Tiling]:
    found: dict[Shape, Tiling] = {}
    for entry in _table()["tiling"]:
        named = {name: entry[name] for name in ("kernel", "target", "head_dim", "itemsize")}
        kind = {name: entry.get(name, False) for name in ("eight_bits", "few")}
        tiling = Tiling(*(entry[name] for name in Tiling.__dataclass_fields__))
        found |= {Shape(**named, group=group, **kind): tiling for group in entry["groups"]}
    return found


@lru_cache
def shared_prefix_gate() -> SharedPrefixGate:
    entry = _table()["shared_prefix"]
    return SharedPrefixGate(*(entry[name] for name in SharedPrefixGate.__dataclass_fields__))


def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text("utf-8"))
