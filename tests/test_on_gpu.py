"""What is run on a machine with a GPU imports torch, triton, transformers with what it brings, xxhash, msgspec and two
packages that print; and the tests what pytest needs."""

import ast
import sys
from pathlib import Path

import pytest

from tests.on_gpu import concerns_a_gpu

ROOT = Path(__file__).parent.parent
BROUGHT = {"numpy", "safetensors", "tokenizers", "tqdm", "jinja2"}
THERE = {"torch", "triton", "transformers", "xxhash", "msgspec", "rich", "typer"} | BROUGHT
TESTS = sorted(file for file in (ROOT / "tests").rglob("test_*.py") if concerns_a_gpu(file))
KERNELS = ["cuda", "cuda_rows", "cuda_sampling", "cuda_store"]


def file_of(module):
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def at_once(body):
    """Modules that a file imports when it is imported itself."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            for name in ("body", "orelse") if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ():
                yield from at_once(getattr(node, name, ()))


def brought_in(modules):
    """Packages that are neither Python's nor ours, by one of the modules that import them."""
    todo, seen, found = list(modules), set(), {}
    while todo:
        module = todo.pop()
        file = None if module in seen else file_of(module)
        seen.add(module)
        if file is None:
            continue
        todo.append(module.rpartition(".")[0])
        for name in at_once(ast.parse(file.read_text()).body):
            top = name.partition(".")[0]
            if top in ("chatpager", "tests"):
                todo.append(name)
            elif top not in sys.stdlib_module_names:
                found[top] = module
    return found


def test_the_measurements():
    benches = [f"chatpager.bench.{name}" for name in ("kernels", "steps", "tilings")]
    found = brought_in(["chatpager.__main__", *benches, *(f"chatpager.kernels.{name}" for name in KERNELS)])
    assert {"torch", "transformers", "xxhash", "rich"} <= set(found) <= THERE, found


def test_the_tests():
    names = [file.relative_to(ROOT).with_suffix("") for file in TESTS]
    conftests = ["tests.conftest", *(f"tests.{room}.conftest" for room in ("engine", "kernels"))]
    found = brought_in([*conftests, *(".".join(name.parts) for name in names)])
    assert {"torch", "pytest"} <= set(found) <= THERE | {"pytest", "hypothesis"}, found


@pytest.mark.parametrize(("room", "concerned"), [("kernels", True), ("engine", True), ("server", False), ("", True)])
def test_only_files_with_such_tests_are_collected(room, concerned):
    assert concerns_a_gpu(ROOT / "tests" / room) == concerned
    assert ROOT / "tests/kernels/test_decode.py" in TESTS and ROOT / "tests/engine/test_sampler.py" not in TESTS
