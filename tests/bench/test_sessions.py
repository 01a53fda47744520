"""The measurement itself, small: that it tells the engines apart."""

import json
import random
import statistics
from itertools import pairwise

import pytest

from chatpager.bench import sessions
from chatpager.bench.traces import AGENT_TURNS, CHAT_SECONDS, CHAT_TURNS, INPUT_TO_OUTPUT, TOOL_SECONDS, TRACES, lengths
from chatpager.errors import ConfigError

SMALL = {
    "trace": "return", "sessions": 6, "tokens": 100, "rounds": 3, "working_sets": [2.0], "shape": "15m", "out": None,
}  # fmt: skip


def test_a_plain_cache_loses_every_session_and_ours_none(tmp_path, capsys):
    out = tmp_path / "sessions.json"
    result = sessions.run(**{**SMALL, "out": str(out)})
    assert json.loads(out.read_text()) == result
    engines = result["working_sets"]["2"]["engines"]
    found = {name: facts["hit_of_attainable"] for name, facts in engines.items()}
    assert found["no prefix cache"] == 0
    assert found["least recently used"] < 0.1
    assert found["chatpager, device only"] > 0.3
    assert found["least recently used, host memory"] > 0.8
    assert found["chatpager"] > 0.95
    assert engines["chatpager"]["from_host"] > 0.2
    assert "6 sessions" in capsys.readouterr().out
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") == 3 and page.count("<polyline") == 3 * len(engines)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sessions": 1}, "sessions"),
        ({"rounds": 1}, "rounds"),
        ({"trace": "x"}, "return, agent, chat"),
        ({"working_sets": [0.0]}, "at least 1"),
        ({"working_sets": [2.0, 9.0]}, "two whole"),
        ({"tokens": 40_000}, "at the most"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        sessions.run(**{**SMALL, **wrong})


@pytest.mark.parametrize("trace", ["agent", "chat"])
def test_traces_have_the_statistics_they_are_made_after(trace):
    turns = TRACES[trace](random.Random(1), 200, 4000, 2)
    by_session = {}
    for turn in turns:
        by_session.setdefault(turn.session, []).append(turn)
    assert turns == sorted(turns)
    counts = [len(own) for own in by_session.values()]
    assert (min(counts), max(counts)) == (AGENT_TURNS if trace == "agent" else CHAT_TURNS)
    assert 0.8 * 4000 < statistics.mean(lengths(turns)) < 1.2 * 4000
    gaps = [b.at - a.at for own in by_session.values() for a, b in pairwise(own)]
    if trace == "chat":
        assert 0.9 * CHAT_SECONDS < statistics.mean(gaps) < 1.1 * CHAT_SECONDS
        return
    assert 0.9 * TOOL_SECONDS < statistics.median(gaps) < 1.1 * TOOL_SECONDS
    sent = answered = 0
    for own in by_session.values():
        length = 0
        for turn in own:
            length += turn.new
            sent += length
            length += turn.answer
            answered += turn.answer
    assert 0.8 * INPUT_TO_OUTPUT < sent / answered < 1.2 * INPUT_TO_OUTPUT


def test_an_agent_s_pauses_do_not_cost_it_its_prefix(monkeypatch):
    compared = {name: sessions.BASELINES[name] for name in ("no prefix cache", "chatpager")}
    monkeypatch.setattr(sessions, "BASELINES", compared)
    small = {**SMALL, "trace": "agent", "sessions": 3, "tokens": 96, "working_sets": [1.0]}
    engines = sessions.run(**small)["working_sets"]["1"]["engines"]
    assert engines["chatpager"]["hit_of_attainable"] > 0.95
    assert engines["no prefix cache"]["hit_of_attainable"] == 0
