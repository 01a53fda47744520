"""The house of the design: who may import whom, imports inside functions included."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "chatpager"

LEAVES = {"errors", "config", "config_sources", "config_values", "failpoints", "program"}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "config_sources": {"config", "config_values", "errors"},
    "config_values": {"config", "errors"},
    "failpoints": {"errors"},
    "program": set(),
    "kernels": {"errors"},
    "engine": {"kernels"} | LEAVES,
    "store": LEAVES,
    "sessions": {"engine", "store"} | LEAVES,
    "server": {"sessions", "store", "engine"} | LEAVES,
    "client": {"server.wire"} | LEAVES,
    "demo": {"engine", "kernels"} | LEAVES,
    "bench": {"client", "demo", "engine", "kernels", "server", "sessions", "store"} | LEAVES,
    "cli": {"bench", "client", "demo", "engine", "kernels", "server", "sessions", "store"} | LEAVES,
    "__init__": {"client", "engine", "kernels"},
    "__main__": {"cli"},
}
STDLIB = sys.stdlib_module_names
BROUGHT = {"safetensors", "tokenizers", "tqdm"}
"""What transformers brings with it."""
# llguidance is one wheel without dependencies, and is imported where the first grammar is compiled; cryptography where
# KV blocks on disk are encrypted.
THIRD_PARTY = {
    "kernels": {"torch", "triton", "numba", "llvmlite", "numpy"},
    "engine": {"torch", "transformers", "numpy", "xxhash", "msgspec", "llguidance", "jinja2", "cryptography"} | BROUGHT,
    "store": {"sqlalchemy", "alembic", "msgspec"},
    "errors": set(),
    "config": set(),
    "config_sources": set(),
    "config_values": set(),
    "failpoints": set(),
    "program": set(),
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "base", "misc", "util"}


def modules():
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


def imports(path: Path):
    """Every absolute module a file imports, wherever in the file."""
    package = ("chatpager", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(p for p in (base, node.module or "") if p)
            yield module
            for alias in node.names:
                yield f"{module}.{alias.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_the_floors_below(path):
    here = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "chatpager" or len(parts) < 2 or parts[1] == here:
            continue
        if not (ROOT / parts[1]).exists() and not (ROOT / f"{parts[1]}.py").exists():
            continue  # a name of chatpager/__init__, such as __version__
        allowed = MAY_IMPORT[here]
        if parts[1] in allowed or ".".join(parts[1:3]) in allowed:
            continue
        if any(a.startswith(parts[1] + ".") for a in allowed) and len(parts) == 2:
            continue
        pytest.fail(f"{path.relative_to(ROOT)} imports {name}: {here} may import only {sorted(allowed)}")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_lower_floors_run_where_little_is_installed(path):
    here = room(path)
    if here not in THIRD_PARTY:
        return
    for name in imports(path):
        top = name.split(".")[0]
        if top and top != "chatpager" and top not in STDLIB:
            assert top in THIRD_PARTY[here], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("here", THIRD_PARTY)
def test_what_a_lower_floor_may_import_it_needs(here):
    imported = {name.split(".")[0] for path in modules() if room(path) == here for name in imports(path)}
    assert THIRD_PARTY[here] <= imported


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_is_synchronous(path):
    if room(path) in {"engine", "kernels"}:
        forbidden = {"asyncio", "socket", "sqlite3", "http", "aiohttp", "sqlalchemy"}
        assert not forbidden & {name.split(".")[0] for name in imports(path)}


def test_every_room_is_on_the_plan():
    assert {room(p) for p in modules()} <= set(MAY_IMPORT)


def test_no_room_has_a_name_that_means_nothing():
    names = {p.stem for p in ROOT.rglob("*") if p.suffix == ".py" or p.is_dir()}
    assert not names & FORBIDDEN_NAMES


def test_the_walls_of_the_test_itself_stand(tmp_path, monkeypatch):
    """The walker sees relative imports and imports inside functions."""
    file = tmp_path / "engine" / "imagined.py"
    file.parent.mkdir()
    file.write_text("def f():\n    from ..server import app\n    import chatpager.store.tables\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert {"chatpager.server.app", "chatpager.store.tables"} <= set(imports(file))
