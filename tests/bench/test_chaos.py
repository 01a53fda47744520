"""A few rounds of ``bench chaos``, whole; the oracle has its own tests in test_load.py."""

from __future__ import annotations

import json
import random

import pytest

from chatpager import failpoints
from chatpager.bench.chaos import run
from chatpager.bench.faults import FAULTS
from chatpager.errors import ConfigError


def test_a_server_that_is_killed_refused_its_database_and_cut_off_loses_nothing(tmp_path):
    out = tmp_path / "chaos.json"
    result = run(rounds=1, only=["kill", "full", "cut"], seed=1, out=str(out))
    assert json.loads(out.read_text()) == result
    for name, tally in result["faults"].items():
        assert tally["acknowledged"] >= tally["ended"] and tally["seen"] > 0, name
        assert tally["lost"] == tally["changed"] == 0 and tally["faults"] == [], name
    assert result["faults"]["cut"]["cuts"] > 0


def test_every_fault_that_is_armed_can_be():
    rng = random.Random(1)
    try:
        for fault in FAULTS.values():
            for _ in range(20):
                failpoints.arm(fault.failpoints(rng), {"CHATPAGER_TEST_MODE": "1"})
    finally:
        failpoints.arm("")


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"only": ["fire"]}])
def test_what_cannot_be_played_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run(**{"rounds": 1, "only": None, "seed": 0, "out": None, **wrong})
