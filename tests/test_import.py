"""``import chatpager`` costs next to nothing; its public names arrive when they are used."""

import subprocess
import sys

import pytest

import chatpager

HEAVY = {"torch", "transformers", "aiohttp", "sqlalchemy", "websockets", "typer", "asyncio", "numpy", "msgspec"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def loaded_by(statement):
    return set(run(f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"))


def test_importing_loads_nothing_heavy():
    assert not HEAVY & loaded_by("import chatpager")


def test_importing_is_fast():
    timing = "import time; t = time.process_time(); import chatpager; print(time.process_time() - t)"
    assert min(float(run(timing)[0]) for _ in range(3)) < 0.05


@pytest.mark.parametrize(
    ("statement", "without"),
    [
        ("from chatpager import AsyncClient", {"torch", "transformers", "sqlalchemy"}),
        ("from chatpager import SamplingParams", {"aiohttp", "sqlalchemy"}),
        ("import chatpager.config", HEAVY),
        ("import chatpager.cli", {"torch", "transformers", "aiohttp", "sqlalchemy"}),
    ],
)
def test_a_name_loads_only_what_it_needs(statement, without):
    assert not without & loaded_by(statement)


@pytest.mark.parametrize("name", chatpager.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(chatpager)
    value = getattr(chatpager, name)
    assert value is getattr(chatpager, name)
    if name != "__version__":
        assert value.__name__.rpartition(".")[2] == name


def test_the_kernels_are_a_module_with_their_function():
    assert callable(chatpager.paged_attention.forward)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'chatpager' has no attribute 'warp'"):
        _ = chatpager.warp


def test_a_star_brings_the_public_names():
    found = {}
    exec("from chatpager import *", found)
    assert set(chatpager.__all__) - {"__version__"} <= set(found)
