"""The simulated cluster, small: what is counted adds up, and who keeps sessions together finds more."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chatpager.bench import placement
from chatpager.bench.clusters import Cache, Kept, LeastLoaded, Load, Placed, RoundRobin, Traffic, simulate
from chatpager.cli.cluster_benches import OF_ENGINE
from chatpager.errors import ConfigError
from chatpager.sessions.placement import Policy

LOAD = Load(
    replicas=4,
    sessions_each=60,
    load=0.3,
    turns=4.0,
    prefix=512,
    message=64,
    answer=64,
    pause=10.0,
    groups=3,
    grouped=0.5,
    prefill=placement.PREFILL,
    decode=placement.DECODE,
    room=1 << 30,
    front_ends=3,
    refresh=2.0,
    seed=3,
)


def test_a_trial_tells_every_way_of_placing_and_what_it_assumes(tmp_path, capsys):
    out = tmp_path / "placement.json"
    result = placement.run(LOAD, replicas=(1000,), policy=Policy(), trial=True, out=str(out))
    assert json.loads(out.read_text()) == result
    found = {(row["replicas"], row["placed_by"]): row for row in result["placements"]}
    assert len(found) == len(result["placements"]) == 10
    assert {replicas for replicas, _ in found} == {2, 4}
    for replicas in (2, 4):
        assert found[replicas, "placement"]["hit_of_attainable"] > found[replicas, "round robin"]["hit_of_attainable"]
        assert found[replicas, "placement"]["hit_of_attainable"] >= 0.95
    shown = capsys.readouterr().out
    assert "Assumed: " in shown and placement.RATES_FROM in shown
    assert "<svg" in out.with_suffix(".html").read_text()


def test_one_replica_with_room_finds_all_that_is_attainable_and_all_ways_are_one():
    load = replace(LOAD, replicas=1)
    traffic = Traffic(load)
    outcomes = [simulate(load, traffic, router) for router in (RoundRobin(load), LeastLoaded(load), Kept(load))]
    outcomes += [simulate(load, traffic, Placed(load, Policy(lease=lease))) for lease in (0.0, 300.0)]
    for outcome in outcomes:
        assert outcome.found == outcome.attainable > 0
        assert (outcome.waits == outcomes[0].waits).all()
        assert outcome.work.sum() == pytest.approx(outcome.computing.sum() + sum(traffic.answers) / load.decode)


def test_waits_are_those_of_a_queue():
    """One replica, sessions of one turn and nothing shared: waits follow Lindley's recursion."""
    load = replace(LOAD, replicas=1, turns=1.0, grouped=0.0, load=0.9)
    traffic = Traffic(load)
    outcome = simulate(load, traffic, RoundRobin(load))
    work = np.array(traffic.messages) / load.prefill + np.array(traffic.answers) / load.decode
    wait, waits = 0.0, []
    for before, gap in zip(work, np.diff(traffic.starts), strict=False):
        waits.append(wait)
        wait = max(0.0, wait + before - gap)
    assert outcome.waits == pytest.approx(np.array([*waits, wait]))
    assert outcome.found == outcome.attainable == 0


def test_sessions_stay_with_their_owner_and_a_hot_prefix_gets_copies():
    load = replace(LOAD, replicas=8, groups=1, grouped=1.0, load=0.6)
    traffic = Traffic(load)
    kept, anew = Placed(load, Policy()), Placed(load, Policy(lease=0.0))
    assert simulate(load, traffic, kept).found >= simulate(load, traffic, anew).found
    assert kept.moves == 0 < anew.moves
    assert anew.most_copies > 1


def test_a_full_cache_gives_up_the_oldest_session_and_no_prefix_before_what_continues_it():
    cache = Cache(room=250)
    assert cache.take(1, group=0, prefix=100, context=50) == 0
    assert cache.take(2, group=0, prefix=100, context=50) == 100
    assert cache.take(1, group=0, prefix=100, context=80) == 150
    assert cache.take(3, group=-1, prefix=0, context=40) == 0  # 2 goes
    assert cache.take(2, group=0, prefix=100, context=60) == 100  # 1 goes
    assert cache.take(3, group=-1, prefix=0, context=40) == 40
    assert cache.take(1, group=0, prefix=100, context=80) == 100


def test_the_default_rates_are_what_the_named_file_says():
    cells = json.loads((Path(placement.__file__).parent / "results" / placement.RATES_FROM).read_text())["cells"]
    rates = {(cell["kind"], cell["batch"], cell["context"]): cell["tokens_per_s"] for cell in cells}
    assert (rates["prefill", 4, 128], rates["decode", 16, 128]) == (placement.PREFILL, placement.DECODE)
    assert placement.RATES_FROM in OF_ENGINE


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"load": 0.0}, "load"),
        ({"sessions_each": 0}, "sessions_each"),
        ({"sessions_each": 1_000_000}, "sessions_each = 2000000"),
        ({"turns": 0.5}, "turns"),
        ({"grouped": 1.5}, "grouped"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_name(wrong, words):
    with pytest.raises(ConfigError, match=words):
        placement.run(replace(LOAD, **wrong), replicas=(2,), policy=Policy(), trial=False, out=None)
    with pytest.raises(ConfigError, match="replicas = 1001"):
        placement.run(LOAD, replicas=(2, 1001), policy=Policy(), trial=False, out=None)
