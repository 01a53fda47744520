"""What chatpager needs is there, and not older than it says."""

import re
import tomllib
from importlib.metadata import version

import pytest

from tests.processes import ROOT

NEEDED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
SAFE = {"aiohttp": "3.14.3", "jinja2": "3.1.6"}
"""The first versions without known faults of theirs that a client could use."""


def numbers(text):
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


def parted(requirement):
    return re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:;.*)?", requirement).groups()


@pytest.mark.parametrize("requirement", NEEDED)
def test_what_is_installed_is_not_too_old(requirement):
    name, least = parted(requirement)
    assert numbers(version(name)) >= numbers(least)


def test_nothing_older_than_is_safe_may_be_installed():
    floors = dict(parted(requirement) for requirement in NEEDED)
    for name, least in SAFE.items():
        assert numbers(floors[name]) >= numbers(least)


def test_versions_are_compared_as_numbers():
    assert numbers("3.14.10") > numbers("3.14.3") > numbers("3.9.9")
    assert numbers("2.11.0+cpu") == (2, 11, 0)
