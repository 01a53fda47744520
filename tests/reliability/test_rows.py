"""The catalogue is whole, and what it names is there."""

import ast
import re
from functools import cache

import pytest

from tests.processes import ROOT
from tests.reliability.rows import GATE, GATE_ROWS, ROWS, marks_of, pytest_collection_modifyitems

FAULTS = {f"F{n:02}" for n in range(1, 37)}
THREATS = {f"S{n:02}" for n in range(1, 31)}


def test_no_row_is_missing():
    assert ROWS.keys() == FAULTS | THREATS
    assert GATE_ROWS <= FAULTS


@pytest.mark.parametrize("id", ROWS)
def test_a_row_names_its_tests_or_says_what_is_open(id):
    row = ROWS[id]
    assert row.keys() <= {"title", "tests", "open"} and row["title"]
    assert row.get("tests") or row.get("open")
    names = row.get("tests", [])
    assert len(names) == len(set(names))
    assert not [name for name in names if name.rpartition("::")[0] in names], "its whole file or class is named too"


@cache
def tree(path):
    return ast.parse((ROOT / path).read_text())


def exists(name):
    """Whether a file, a class or a test is there under this name, as it is written in the catalogue."""
    path, *inner = name.split("::")
    if not (path.startswith("tests/") and path.rpartition("/")[2].startswith("test_") and (ROOT / path).is_file()):
        return False
    body = tree(path).body
    for part in inner:
        found = [node for node in body if getattr(node, "name", None) == part]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return not inner or inner[-1].startswith(("test_", "Test"))


@pytest.mark.parametrize("id", ROWS)
def test_every_test_that_a_row_names_is_there(id):
    assert not [name for name in ROWS[id].get("tests", ()) if not exists(name)]


def test_what_is_not_there_is_found_out():
    here = "tests/reliability/test_rows.py"
    assert exists(here) and exists(f"{here}::test_no_row_is_missing")
    for name in (
        f"{here}::test_nothing",
        f"{here}::exists",
        f"{here}::exists::test_",
        "tests/test_none.py",
        "README.md",
    ):
        assert not exists(name)


class Item:
    def __init__(self, nodeid):
        self.nodeid, self.marks = nodeid, []

    def add_marker(self, mark):
        self.marks.append(mark)


def test_a_test_has_the_marks_of_its_rows():
    """By its own name, by its class and by its file; whatever its parameters."""
    once, faults = "tests/server/test_once.py::test_x", "tests/sessions/test_faults.py"
    assert "tests/server/test_once.py" in ROWS["F10"]["tests"]
    assert f"{faults}::TestFaults" in ROWS["F11"]["tests"]
    for nodeid in (once, f"{once}[a::b-F11]"):
        item = Item(nodeid)
        pytest_collection_modifyitems([item])
        assert item.marks == ["F10", GATE]
    assert {"F11", GATE} <= marks_of(f"{faults}::TestFaults::test_x[1]")
    assert "F11" not in marks_of(f"{faults}::test_x")
    assert marks_of("tests/server/test_none.py::test_x") == set()


def test_every_promise_stands_on_tests():
    """The promises of SECURITY.md name rows with tests, and what it does not promise is open in its rows."""
    promised, _, rest = (ROOT / "SECURITY.md").read_text().partition("## What is promised\n")[2].partition("\n## ")
    for promise in promised.strip().removeprefix("- ").split("\n- "):
        named = re.findall(r"\b[FS]\d\d\b", promise)
        assert named, promise
        assert all(ROWS[id].get("tests") for id in named), promise
    assert all(ROWS[id].get("open") for id in re.findall(r"\b[FS]\d\d\b", rest))


def test_pytest_knows_of_the_rows(request):
    known = {line.partition(":")[0] for line in request.config.getini("markers")}
    assert ROWS.keys() | {GATE} <= known
    for item in request.session.items:
        marks = {mark.name for mark in item.iter_markers()}
        assert marks & (ROWS.keys() | {GATE}) == marks_of(item.nodeid)
