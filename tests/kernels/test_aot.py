"""The kernels compile for GPUs that are not here, and what comes out is what the design counts on."""

import json
import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest

from tests.kernels.aot import PARAMETERS, loops
from tests.kernels.pairs import all_pairs

ROOT = Path(__file__).parents[2]
SPILLS = {"sm_90": 0}
"""Bytes a thread that may be spilled; what is not listed may spill six words (seen on sm_86 and sm_100, in one variant
each of the matrix and the pairs)."""


def compiled(which, *targets):
    """Facts of every variant, from a process of its own: here triton may be set to interpret."""
    skipped = ("TRITON_INTERPRET", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
    environment = {k: v for k, v in os.environ.items() if k not in skipped}
    command = [sys.executable, "-m", "tests.kernels.aot", which, *targets]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def faults(fact):
    """What is wrong with one variant, in words."""
    attention = fact["kernel"] in PARAMETERS["kernel"]
    nvidia = fact["target"].startswith("sm_")
    half = fact["dtype"] != "fp32"
    rules = {
        "registers spill": fact["spilled"] <= SPILLS.get(fact["target"], 24),
        "shared memory overflows": fact["shared"] <= fact["shared_limit"],
        "keys and values are loaded two bytes at a time": fact["narrow_loads"] == 0 or not (attention and nvidia),
        "no asynchronous copy in a loop": not (attention and nvidia and half)
        or fact["head_dim"] < 32  # a row is too short for sixteen bytes a thread
        or fact["async_copies"] > 0,
        "no tensor core in a loop": not (attention and half) or fact["mma"] + fact.get("wgmma", 0) > 0,
        "no wgmma on Hopper": not (fact["kernel"] in ("extend", "prefix") and fact["target"] == "sm_90" and half)
        or (fact["tiling"]["rows"] >= 64 and fact["wgmma"] > 0),
    }
    return [rule for rule, holds in rules.items() if not holds]


def assert_sound(facts, at_least):
    assert len(facts) >= at_least
    wrong = [(faults(fact), fact) for fact in facts if faults(fact)]
    assert not wrong, "\n".join(map(str, wrong))


TARGETS = ["sm_80", "sm_86", "sm_90", "sm_100", "gfx942"]


@pytest.mark.parametrize("target", TARGETS)
def test_every_two_traits_of_a_variant_together(target):
    facts = compiled("commit", target)
    assert_sound(facts, 15)
    assert {fact["target"] for fact in facts} == {target}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", TARGETS)
def test_every_variant_for_every_gpu(target):
    assert_sound(compiled("nightly", target), 300)


def test_any_value_of_a_parameter_meets_any_of_another():
    rows = all_pairs(PARAMETERS)
    for first, second in combinations(PARAMETERS, 2):
        assert {(row[first], row[second]) for row in rows} == set(product(PARAMETERS[first], PARAMETERS[second]))
    assert all(row.keys() == PARAMETERS.keys() for row in rows)
    assert len(rows) < 90
    assert rows == all_pairs(PARAMETERS)


def test_a_loop_is_what_lies_between_a_label_and_the_branch_back_to_it():
    text = "before;\n$L__1:\n  inside;\n  @%p bra $L__2;\n  more;\n  @%p bra $L__1;\n$L__2:\nafter;\n"
    (body,) = loops(text)
    assert "inside" in body
    assert "more" in body
    assert "before" not in body
    assert "after" not in body


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"spilled": 8}, "registers spill"),
        ({"spilled": 16, "target": "sm_100"}, None),
        ({"spilled": 32, "target": "sm_100"}, "registers spill"),
        ({"shared": 300_000}, "shared memory overflows"),
        ({"narrow_loads": 80}, "keys and values are loaded two bytes at a time"),
        ({"async_copies": 0}, "no asynchronous copy in a loop"),
        ({"wgmma": 0, "mma": 0}, "no tensor core in a loop"),
        ({"wgmma": 0, "mma": 64}, "no wgmma on Hopper"),
    ],
)
def test_the_rules_find_what_they_are_for(change, fault):
    good = {"kernel": "extend", "target": "sm_90", "dtype": "bf16", "head_dim": 128, "tiling": {"rows": 128}}
    good |= {
        "spilled": 0,
        "shared": 90_000,
        "shared_limit": 232_448,
        "narrow_loads": 0,
        "async_copies": 32,
        "wgmma": 24,
        "mma": 0,
    }
    assert (fault in faults(good | change)) if fault else (faults(good | change) == [])
