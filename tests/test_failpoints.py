import signal
import sqlite3
import subprocess
import sys

import pytest

from chatpager import failpoints
from chatpager.errors import ChatpagerError, ConfigError
from chatpager.failpoints import FailpointHit, arm, hit, jumped
from chatpager.store.faults import meaning

TEST_MODE = {"CHATPAGER_TEST_MODE": "1"}


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    arm("")


def run(code, **env):
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_a_place_that_is_not_armed_does_nothing():
    hit("here")
    arm("there=raise", TEST_MODE)
    hit("here")


def test_raise_raises_once_and_is_no_error_of_ours():
    arm("here=raise", TEST_MODE)
    with pytest.raises(FailpointHit, match="here") as caught:
        hit("here")
    hit("here")
    assert not isinstance(caught.value, ChatpagerError)


def test_a_number_says_at_which_hit():
    arm("a.b=raise@3, c=raise", TEST_MODE)
    hit("a.b")
    hit("a.b")
    with pytest.raises(FailpointHit):
        hit("a.b")
    with pytest.raises(FailpointHit):
        hit("c")


def test_arming_replaces_what_was_armed():
    arm("here=raise", TEST_MODE)
    arm("there=raise", TEST_MODE)
    hit("here")


def test_kill_kills_the_process_on_the_spot():
    code = "from chatpager.failpoints import hit; hit('x'); print('once', flush=True); hit('x'); print('never')"
    done = run(code, CHATPAGER_TEST_MODE="1", CHATPAGER_FAILPOINTS="x=kill@2")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "once\n")


@pytest.mark.parametrize(("action", "means"), [("full", "is full"), ("gone", "cannot be opened")])
def test_a_database_s_error_is_one_as_the_driver_raises_it_for_so_many_hits(action, means):
    arm(f"here={action}@2x3", TEST_MODE)
    hit("here")
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError) as raised:
            hit("here")
        assert means in meaning(raised.value)
    hit("here")


def test_a_clock_jumps_to_and_fro():
    assert jumped("clock") == 0
    arm("clock=jump@2", TEST_MODE)
    assert [jumped("clock") for _ in range(9)] == [0, 3600, 3600, 0, 0, -3600, -3600, 0, 0]
    assert jumped("another") == 0


@pytest.mark.parametrize(
    "spec", ["x", "x=", "x=stop", "x=full@2x", "x=raise@1x0", "x=kill@0", "x=kill@", "=kill", "x=raise,y"]
)
def test_a_spec_that_cannot_be_read_is_refused_and_changes_nothing(spec):
    arm("here=raise", TEST_MODE)
    with pytest.raises(ConfigError, match="name=kill or name=raise"):
        arm(spec, TEST_MODE)
    with pytest.raises(FailpointHit):
        hit("here")


def test_nothing_is_armed_outside_test_mode():
    with pytest.raises(ConfigError, match="CHATPAGER_TEST_MODE=1"):
        arm("here=raise", {})
    done = run("import chatpager.failpoints", CHATPAGER_FAILPOINTS="x=raise")
    assert done.returncode == 1
    assert "ConfigError" in done.stderr
    assert "CHATPAGER_TEST_MODE=1" in done.stderr


def test_an_empty_spec_disarms():
    arm("here=raise", TEST_MODE)
    arm("")
    hit("here")
    assert not failpoints._armed
