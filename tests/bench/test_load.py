"""A small load, whole, on the fake engine; and what the oracle and the goals make of what was heard."""

from __future__ import annotations

import json
from math import inf, isnan

import pytest

from chatpager.bench import oracle
from chatpager.bench.exposition import grown, parse, quantile, total
from chatpager.bench.load import Options, _finite, run
from chatpager.bench.load_goals import GOALS, beyond_the_keyring, judged, table
from chatpager.bench.transcript import Line, lines
from chatpager.errors import ConfigError

SMALL = {
    "idle": 50,
    "streams": (20,),
    "turns": 4,
    "resumes": 50,
    "stalled": 2,
    "rate": 100.0,
    "seconds": 1.0,
    "soak": 1.5,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    out, transcript = folder / "load.json", folder / "heard.jsonl"
    result = run(Options(**SMALL, out=str(out), transcript=str(transcript)))
    return result, json.loads(out.read_text()), transcript


def test_every_load_is_played_and_nobody_is_told_anything_else_than_is_stored(loaded):
    result, written, transcript = loaded
    assert result == written
    assert [load["load"] for load in result["loads"]] == ["idle", "streams", "turns", "resumes", "stalled", "soak"]
    idle, streams, turns, resumes, stalled, soak = result["loads"]
    assert idle["kib_per_socket"] < 200 and idle["tasks_per_socket"] > 0
    asked = 20 * (100 * (2 * 1 + 2) + 1)
    assert 0 < streams["tokens_per_s"] * SMALL["seconds"] <= asked and 0 < streams["step_to_socket_p99_s"] < inf
    assert turns["turns"] > 4 and 0 < turns["turn_p50_s"] <= turns["turn_p99_s"]
    assert turns["cpu_ms_per_turn"] > 0 and 0 < turns["writes_per_turn"] < 6 and turns["reads_per_turn"] > 0
    assert (resumes["sql_reads"], resumes["recovered"]) == (0, 50)
    assert stalled["gone_s"] > 0
    assert soak["turns"] > 0 and soak["active_blocks_at_the_end"] == 0
    assert min(soak["python_blocks"]) > 100_000
    told = result["oracle"]
    assert told["faults"] == told["refused"] == 0 and result["faults"] == []
    assert told["ended"] >= 20 + 50 + turns["turns"] + soak["turns"]
    assert told["events"] == sum(1 for line in lines(transcript) if line.event)


def test_each_goal_is_of_a_figure_that_there_is(loaded):
    for goal in GOALS:
        assert any(load["load"] == goal.load and goal.key in load for load in loaded[0]["loads"])


def test_what_is_beyond_all_bounds_is_null_and_a_goal_that_is_missed():
    assert _finite({"a": [inf, 1.5], "b": "x"}) == {"a": [None, 1.5], "b": "x"}
    row = judged([("idle", {"sockets": 1, "kib_per_socket": 1, "cpu_share": inf})])[1]
    assert not row["kept"]
    table([_finite(row)])


def test_a_goal_is_for_so_many_sockets_as_it_says():
    hundred, thousand = (judged([("streams", figures(count))]) for count in (100, 1000))
    assert [(row["goal"], row["most"]) for row in hundred] == [("G06", 0.005), ("G22", 0.020)]
    assert [(row["goal"], row["kept"]) for row in thousand] == [("G05", False), ("G06", True), ("G22", True)]


@pytest.mark.parametrize(
    ("reads", "seconds", "beyond"), [(0, 0.5, 0), (1, 0.5, 0), (2, 1.9, 1), (2, 2.1, 0), (9, 15.0, 1), (1, 600.0, 0)]
)
def test_that_the_keyring_looks_from_time_to_time_is_no_read_of_those_who_come(reads, seconds, beyond):
    assert beyond_the_keyring(reads, seconds) == beyond


def figures(count):
    return {"streams": count, "cpu_share": 0.7, "step_to_socket_p99_s": 0.01, "loop_lag_p999_s": 0.005}


@pytest.mark.parametrize("url", ["https://a.example", "ws://a.example", "a.example:80", "http://", "http://a:port"])
def test_a_server_that_cannot_be_spoken_to_in_clear_is_refused_before_a_key_is_sent(url):
    with pytest.raises(ConfigError, match="url"):
        run(Options(url=url, api_key="secret", idle=1))


@pytest.mark.parametrize(
    "wrong", [{"idle": -1}, {"streams": (0,)}, {"rate": 0.0}, {"seconds": -1.0}, {"idle": 10**9, "sockets": 1}]
)
def test_what_cannot_be_played_is_refused_by_name(wrong):
    name = list(wrong)[-1]
    wrong.pop("sockets", None)
    with pytest.raises(ConfigError, match=name):
        run(Options(**wrong))


# -- the oracle -------------------------------------------------------------------------------------------------------


def created(name="resp_1"):
    return {"type": "response.created", "sequence_number": 0, "response": {"id": name}}


def delta(number, text="a"):
    return {"type": oracle.DELTA, "sequence_number": number, "delta": text}


def completed(number, text, name="resp_1"):
    return {"type": "response.completed", "sequence_number": number, "response": stored(text, name)}


def stored(text, name="resp_1", status="completed"):
    part = {"type": "output_text", "text": text}
    return {
        "id": name,
        "status": status,
        "error": None,
        "output": [{"type": "reasoning"}, {"type": "message", "content": [part]}],
    }


def heard(*events, socket=1, sent=None):
    first = [Line(0.0, socket, sent=sent or {"type": "response.create", "input": "Hello"})]
    return [*first, *(Line(0.0, socket, event=event) for event in events)]


RESUME = {"type": "response.resume", "response_id": "resp_1", "starting_after": 1}


def test_a_response_that_is_told_in_order_and_again_is_right():
    whole = heard(created(), delta(1), delta(2, "b"), completed(3, "ab"))
    again = heard(delta(2, "b"), completed(3, "ab"), socket=2, sent=RESUME)
    found = oracle.account([*whole, *again, Line(0.0, 2, lost="None")])
    assert found.faults == [] and (found.acknowledged, found.ended, found.events) == (1, 1, 6)
    response = found.responses["resp_1"]
    assert (response.input, response.text) == ("Hello", "ab")
    assert oracle.against_the_store("resp_1", response, stored("ab")) == []


@pytest.mark.parametrize(
    "events",
    [
        [created(), delta(2)],
        [created(), delta(1), delta(1)],
        [delta(1)],
        [created(), delta(1), completed(2, "a"), delta(3)],
    ],
)
def test_a_hole_a_double_and_an_event_of_nothing_are_faults(events):
    assert len(oracle.account(heard(*events)).faults) == 1


def test_an_event_that_is_told_in_two_ways_is_a_fault():
    other = heard(delta(2, "c"), socket=2, sent=RESUME)
    assert oracle.account([*heard(created(), delta(1), delta(2, "b")), *other]).faults == [
        "event 2 of resp_1 was told in two ways"
    ]


@pytest.mark.parametrize(
    ("end", "there", "fault"),
    [
        (None, None, "is not there"),
        (None, "a", "text that was told"),
        ("ab", "abc", "another end"),
        ("abc", "abc", "another text than its deltas"),
        (None, "abc", None),
        ("ab", "ab", None),
    ],
)
def test_what_is_stored_is_held_against_what_was_heard(end, there, fault):
    events = [created(), delta(1), delta(2, "b"), *([completed(3, end)] if end else [])]
    response = oracle.account(heard(*events)).responses["resp_1"]
    found = oracle.against_the_store("resp_1", response, stored(there) if there is not None else None)
    assert [fault in one for one in found] == ([True] if fault else [])


def test_an_end_that_failed_may_say_more_than_was_shown_and_one_that_was_not_stored_is_not_there():
    failed = stored("abc", status="failed")
    end = {"type": "response.failed", "sequence_number": 2, "response": failed}
    response = oracle.account(heard(created(), delta(1), end)).responses["resp_1"]
    assert oracle.against_the_store("resp_1", response, failed) == []
    interrupted = stored("ab", status="failed")
    assert len(oracle.against_the_store("resp_1", response, interrupted)) == 1
    failed["error"] = {"code": "storage_unavailable"}
    assert oracle.against_the_store("resp_1", response, interrupted) == []


def test_a_refusal_is_no_event_of_a_response():
    found = oracle.account(heard({"type": "error", "error": {"code": "server_is_overloaded"}}))
    assert (found.refused, found.events, found.faults) == (1, 0, [])


# -- /metrics ---------------------------------------------------------------------------------------------------------

BEFORE = (
    'chatpager_x_total{kind="a"} 1\n'
    'chatpager_h_bucket{le="0.1"} 5\nchatpager_h_bucket{le="0.2"} 5\nchatpager_h_bucket{le="+Inf"} 5\n'
)
AFTER = (
    '# HELP chatpager_x_total of it\nchatpager_x_total{kind="a"} 4\nchatpager_x_total{kind="b"} 2.5\n'
    'chatpager_h_bucket{le="0.1"} 103\nchatpager_h_bucket{le="0.2"} 104\nchatpager_h_bucket{le="+Inf"} 105\n'
)


def test_figures_are_what_happened_between_two_looks():
    before, after = parse(BEFORE), parse(AFTER)
    assert total(after, "x_total") == 6.5
    assert grown(before, after, "x_total", 'kind="a"') == 3
    assert [quantile(before, after, "h", share) for share in (0.5, 0.98, 0.99, 1)] == [0.1, 0.1, 0.2, inf]
    assert isnan(quantile(before, before, "h", 0.5)) and isnan(quantile(before, after, "nothing", 0.5))
