"""The measurement itself, small."""

import json

import pytest

from chatpager.bench import grammars
from chatpager.errors import ConfigError


def test_steps_with_and_without_a_grammar_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grammars, "ROUNDS", 1)
    monkeypatch.setattr(grammars, "TOKENS", 4)
    out = tmp_path / "grammars.json"
    result = grammars.run(rows=(1, 2), out=str(out))
    assert json.loads(out.read_text()) == result
    assert set(result["step_ms"]) == {"1", "2"}
    for times in result["step_ms"].values():
        assert set(times) == {"none", "regex", "json_schema"} and min(times.values()) > 0
    assert "first answer" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [(), (0,), (1, 257)])
def test_what_cannot_be_measured_is_refused(rows):
    with pytest.raises(ConfigError, match="rows"):
        grammars.run(rows=rows, out=None)
