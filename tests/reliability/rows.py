"""The catalogue of faults (F) and threats (S), and what of the suite proves each row.

``rows.toml`` has a table for each row: its ``title``; ``tests``, the files, classes and tests that prove it; and
``open``, what of it nothing proves yet. Every test that a row names has the row's id as its mark: ``pytest -k F07``
runs them, and ``pytest -k release_gate`` those of the rows that a release waits for.
"""

import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROWS = tomllib.loads(Path(__file__).with_name("rows.toml").read_text())
GATE = "release_gate"
GATE_ROWS = {"F01", "F02", "F05", "F07", "F08", "F10", "F11", "F12", "F15", "F17", "F21", "F23", "F25"}

_ROWS_OF = defaultdict(list)
for _id, _row in ROWS.items():
    for _name in _row.get("tests", ()):
        _ROWS_OF[_name].append(_id)


def marks_of(nodeid):
    """The rows that a test proves, named by itself, its class or its file; and whether a release waits for one."""
    parts = nodeid.partition("[")[0].split("::")
    rows = {row for end in range(1, len(parts) + 1) for row in _ROWS_OF.get("::".join(parts[:end]), ())}
    return rows | ({GATE} if rows & GATE_ROWS else set())


def pytest_configure(config):
    for id, row in ROWS.items():
        config.addinivalue_line("markers", f"{id}: {row['title']}")
    config.addinivalue_line("markers", f"{GATE}: of a row of the catalogue that a release waits for")


@pytest.hookimpl(tryfirst=True)  # before -k and -m look at the marks
def pytest_collection_modifyitems(items):
    for item in items:
        for mark in sorted(marks_of(item.nodeid)):
            item.add_marker(mark)
