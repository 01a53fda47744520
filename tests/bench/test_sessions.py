"""The measurement itself, small: that it tells the engines apart."""

import json

import pytest

from chatpager.bench import sessions
from chatpager.errors import ConfigError

SMALL = {"sessions": 6, "tokens": 100, "rounds": 3, "share": 0.5, "shape": "15m", "out": None}


def test_a_plain_cache_loses_every_session_and_ours_none(tmp_path, capsys):
    out = tmp_path / "sessions.json"
    result = sessions.run(**{**SMALL, "out": str(out)})
    assert json.loads(out.read_text()) == result
    found = {name: facts["hit_of_attainable"] for name, facts in result["engines"].items()}
    assert found["no prefix cache"] == 0
    assert found["least recently used"] < 0.1
    assert found["chatpager, device only"] > 0.3
    assert found["least recently used, host memory"] > 0.8
    assert found["chatpager"] > 0.95
    assert result["engines"]["chatpager"]["from_host"] > 0.2
    assert "6 sessions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sessions": 1}, "sessions"),
        ({"rounds": 1}, "rounds"),
        ({"share": 0.0}, "share"),
        ({"share": 0.1}, "two whole"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        sessions.run(**{**SMALL, **wrong})
