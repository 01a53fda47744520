"""The measurement itself, on the smallest model: that it measures what it says."""

import json

import pytest

from chatpager.bench import machine, server, turns


def test_the_second_turn_is_warm_and_the_other_is_cold(tmp_path, capsys):
    out = tmp_path / "turns.json"
    result = turns.run(history=200, shape="15m", rounds=1, out=str(out))
    assert json.loads(out.read_text()) == result
    ((warm, cold),) = result["prompt_tokens"]
    assert abs(warm - cold) < 0.1 * warm
    ((warm_cached, cold_cached),) = result["cached_tokens"]
    assert warm_cached > 0.8 * warm
    assert cold_cached < 16, "the beginning that every prompt has"
    assert result["ratio"] == pytest.approx(result["warm_ttft_ms"][0] / result["cold_ttft_ms"][0], rel=0.05)
    assert "ratio" in capsys.readouterr().out


def test_a_second_turn_over_two_thousand_tokens_begins_in_a_fifth_of_the_cold_time():
    """What holds it up does so each time; a machine that is busy does not."""
    ratios = []
    while len(ratios) < 3 and not any(ratio <= 0.2 for ratio in ratios):
        ratios.append(turns.run(history=2000, shape="100m", rounds=1, out=None)["ratio"])
    assert min(ratios) <= 0.2, ratios


@pytest.fixture
def users_own(monkeypatch, tmp_path):
    """Settings of a server that is not ours to measure with."""
    mine = tmp_path / "mine.db"
    monkeypatch.setenv("CHATPAGER_API_KEY", "secret")
    monkeypatch.setenv("CHATPAGER_DATABASE_URL", f"sqlite:///{mine}")
    return mine


def test_a_measurement_leaves_the_users_own_alone(users_own):
    turns.run(history=64, shape="15m", rounds=1, out=None)
    assert not users_own.exists()


def test_a_figure_says_what_it_was_measured_on():
    described = machine.describe()
    assert described["cores"] >= 1
    assert described["torch"].startswith("2.")


def test_a_server_that_does_not_start_gives_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="no such folder"), server.running(tmp_path / "nothing", tmp_path):
        pass
