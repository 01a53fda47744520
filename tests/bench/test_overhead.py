"""The measurement itself, small: that it tells the model's work from the engine's."""

import json

import pytest

from chatpager.bench import overhead
from chatpager.errors import ConfigError


def test_the_engine_s_own_work_is_a_part_of_every_step(tmp_path, capsys):
    out = tmp_path / "overhead.json"
    result = overhead.run(sequences=40, steps=6, shape="15m", out=str(out))
    assert json.loads(out.read_text()) == result
    assert 0 < result["own_ms"]["p50"] < result["step_ms"]["p50"]
    assert 0 < result["own_of_step"] < 1
    assert (result["leases"], result["steps"]) == (40, 6)
    assert "40 sequences decoding" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "words"), [({"sequences": 0}, "sequences"), ({"steps": 1}, "steps")])
def test_what_cannot_be_measured_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        overhead.run(**{"sequences": 2, "steps": 2, "shape": "15m", "out": None, **wrong})
