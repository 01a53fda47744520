"""A small run of ``bench streams``, whole."""

from __future__ import annotations

import json

import pytest

from chatpager.bench.streams import run
from chatpager.errors import ConfigError


def test_both_ways_are_measured_and_written_down(tmp_path) -> None:
    out = tmp_path / "streams.json"
    result = run(streams=3, prompt=40, answer=5, rounds=2, shape="15m", out=str(out))
    assert json.loads(out.read_text()) == result
    assert len(result["served_s"]) == len(result["engine_s"]) == 2
    assert 0 < result["client_share"] < 1
    each = [served / bare - 1 for served, bare in zip(result["served_s"], result["engine_s"], strict=True)]
    assert result["overheads"] == pytest.approx(each, rel=0.05, abs=0.05)
    assert result["overhead"] == pytest.approx(sum(each) / 2, rel=0.05, abs=0.05)


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"answer": 100_000}, {"prompt": 0}, {"rounds": 0}])
def test_what_cannot_be_measured_is_refused_by_name(wrong) -> None:
    asked = {"streams": 1, "prompt": 1, "answer": 1, "rounds": 1, **wrong}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run(**asked, shape="15m", out=None)
