"""The measurement itself, small: that each turn's history is where it says."""

import json

import pytest

from chatpager.bench import tiers
from chatpager.errors import ConfigError

TOKENS = 200


def test_each_turn_finds_its_history_where_it_is_said_to_be(tmp_path, capsys):
    out = tmp_path / "tiers.json"
    result = tiers.run(tokens=TOKENS, shape="15m", rounds=1, out=str(out))
    assert json.loads(out.read_text()) == result
    full = TOKENS // tiers.BLOCK * tiers.BLOCK
    found = {
        source: tuple(facts[f"{tier}_tokens"][0] for tier in ("device", "host", "disk"))
        for source, facts in result["turns"].items()
    }
    assert found == {
        "device": (TOKENS, 0, 0),
        "host": (0, full, 0),
        "disk": (0, 0, full),
        "restart": (0, 0, full),
        "cold": (0, 0, 0),
    }
    assert result["turns"]["cold"]["of_cold"] == 1
    assert all(facts["ttft_ms"][0] > 0 for facts in result["turns"].values())
    assert "200 tokens of history" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "words"), [({"tokens": 8}, "tokens"), ({"rounds": 0}, "rounds")])
def test_what_cannot_be_measured_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        tiers.run(**{"tokens": TOKENS, "shape": "15m", "rounds": 1, "out": None, **wrong})
