"""The checked-in table: well formed, found by the shapes it names, and by no others."""

import tomllib

from chatpager.kernels import configurations
from chatpager.kernels.configurations import TABLE, shared_prefix_gate, tilings
from chatpager.kernels.heuristics import decode_tiling, extend_tiling

HOPPER = 232_448


def test_every_entry_says_where_it_comes_from_and_names_a_shape_once():
    table = tomllib.loads(TABLE.read_text("utf-8"))
    for entry in (table["shared_prefix"], *table["tiling"]):
        assert entry["source"].split()[0].rstrip(",") in ("model", "compiled", "measured")
    assert len(tilings()) == sum(len(entry["groups"]) for entry in table["tiling"])
    gate = shared_prefix_gate()
    assert min(gate.tokens, gate.rows, gate.saved_bytes) > 0


def test_a_known_shape_is_taken_from_the_table_and_any_other_follows_the_rule(monkeypatch):
    known = {shape: tiling for shape, tiling in tilings().items() if shape.kernel == "decode"}
    shape, tiling = next(iter(known.items()))
    asked = shape.head_dim, shape.group, shape.itemsize, HOPPER
    assert decode_tiling(*asked, target=shape.target) == tiling
    changed = configurations.Tiling(32, 32, 8, 2)
    wide = shape._replace(kernel="extend", few=False)
    for function in (decode_tiling, extend_tiling):
        function.cache_clear()
    try:
        monkeypatch.setattr("chatpager.kernels.heuristics.tilings", lambda: {shape: changed, wide: changed})
        assert decode_tiling(*asked, target=shape.target) == changed
        assert decode_tiling(*asked, target="sm_80") != changed
        assert decode_tiling(*asked, True, shape.target) != changed
        head_dim, group, itemsize, shared = asked
        assert extend_tiling(head_dim, group, itemsize, 4096, shared, target=shape.target) == changed
        assert extend_tiling(head_dim, group, itemsize, 1, shared, target=shape.target) != changed
    finally:
        for function in (decode_tiling, extend_tiling):
            function.cache_clear()


def test_the_table_holds_what_the_kernels_rely_on():
    for shape, tiling in tilings().items():
        assert tiling.rows >= shape.group
        assert tiling.rows & (tiling.rows - 1) == tiling.tile & (tiling.tile - 1) == 0
        assert shape.kernel in ("decode", "extend")
