"""Agents behind several engines, few of them: that it tells placed ones and rotation apart."""

import json
from dataclasses import replace

import pytest

from chatpager.bench import replicas
from chatpager.bench.replicas import Traffic
from chatpager.errors import ConfigError

FEW = Traffic(sessions=6, tokens=192, heads=2, shared=32, at_once=4)


def test_two_engines_that_are_placed_by_find_what_one_finds(tmp_path, capsys):
    out = tmp_path / "replicas.json"
    result = replicas.run(FEW, out=str(out))
    assert json.loads(out.read_text()) == result
    found = {name: row["hit_of_attainable"] for name, row in result["ways"].items()}
    one, placed, rotated, placed_parts, rotated_parts = found.values()
    assert one == 1.0 >= max(placed, rotated)
    assert min(placed, placed_parts) >= 0.95
    assert rotated_parts < rotated < placed
    assert all(row["busiest_share_of_turns"] < 0.8 for name, row in result["ways"].items() if name != replicas.ONE)
    assert "6 agents" in capsys.readouterr().out
    assert "<svg" in out.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sessions": 1}, "sessions"),
        ({"shared": 40}, "whole blocks"),
        ({"shared": 128}, "half of an agent"),
        ({"room": 0.0}, "room"),
        ({"room": 0.1}, "two must fit"),
        ({"tokens": 40_000}, "16,384"),
        ({"replicas": 1}, "replicas"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(wrong, words):
    with pytest.raises(ConfigError, match=words):
        replicas.run(replace(FEW, **wrong), out=None)
