"""The same streams from engines in different places, few of them."""

import json

import pytest

from chatpager.bench import hosts
from chatpager.bench.hosts import CHILD, THREAD, Streams
from chatpager.errors import ConfigError


def test_every_engine_gives_all_tokens_and_is_held_against_the_child(tmp_path, capsys):
    out = tmp_path / "hosts.json"
    few = Streams(at_once=3, prompt=8, answer=20, rounds=2, fake=True, pace=200)
    result = hosts.run(few, has_ray=False, out=str(out))
    assert json.loads(out.read_text()) == result
    assert set(result["hosts"]) == {THREAD, CHILD} and result["hosts"][CHILD]["of_child"] == 1
    assert all(0 < row["tokens_per_s"] < 700 for row in result["hosts"].values())
    assert [len(rounds) for rounds in result["seconds"].values()] == [2, 2]
    assert "chatpager[ray]" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="streams = 0"):
        hosts.run(few._replace(at_once=0), has_ray=False, out=None)
