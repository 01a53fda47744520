"""``pytest -m gpu`` on a machine that has a GPU, torch and little else: what has no such test is not imported."""

from importlib.util import find_spec
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"
"""Where a backend is marked, not the tests that ask for it."""
SETTINGS = {"pytest_asyncio": ("asyncio_mode", "asyncio_default_fixture_loop_scope")}
"""In pyproject.toml, by the plugin that knows them."""


def concerns_a_gpu(path: Path) -> bool:
    """Whether a test file, or one below a folder, may have a test that is marked gpu."""
    files = path.rglob("test_*.py") if path.is_dir() else [path]
    return any(("backend" if KERNELS in file.parents else "mark.gpu") in file.read_text() for file in files)


def pytest_addoption(parser) -> None:
    """Without a plugin that no test of a GPU needs, its settings would be mistakes."""
    for plugin, names in SETTINGS.items():
        for name in names if find_spec(plugin) is None else ():
            parser.addini(name, f"of {plugin}, which is not installed")


def pytest_ignore_collect(collection_path: Path, config) -> bool | None:
    is_test = collection_path.is_dir() or collection_path.match("test_*.py")
    if config.option.markexpr == "gpu" and is_test and not concerns_a_gpu(collection_path):
        return True
    return None
