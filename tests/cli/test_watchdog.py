"""A step that does not end takes its process along, and nothing else does."""

from contextlib import suppress
from http.client import HTTPException

from chatpager.cli.watchdog import COMMAND_SECONDS, EXIT_CODE, StepWatch
from chatpager.engine.servant import COMMANDS
from tests.processes import serving


def test_only_one_step_that_was_seen_for_so_long_has_hung():
    watch = StepWatch(1.0, 0.3)
    assert [watch.look(1, 0.25) for _ in range(5)] == [False, False, False, False, True]
    assert [watch.look(1, 0.25) for _ in range(4)] == [False, False, False, True], "once for as long again"
    assert not any(watch.look(step, 0.25) for step in (2, 2, None, 2, 2, 3, 3, 3, 3))


def test_a_command_may_take_longer_than_a_step():
    watch, looks = StepWatch(1.0, 10.0), COMMAND_SECONDS / 10.0
    assert not any(watch.look(COMMANDS, 10.0) for _ in range(round(looks)))
    assert watch.look(COMMANDS, 10.0)
    assert [watch.look(1, 10.0) for _ in range(2)] == [False, True]


def test_time_in_which_nobody_looked_does_not_count():
    watch = StepWatch(1.0, 0.3)
    assert [watch.look(1, seconds) for seconds in (0.0, 3600.0, 3600.0, 0.3)] == [False] * 4
    assert watch.look(1, 0.3)


def test_an_engine_that_hangs_ends_the_process_with_a_code_of_its_own(fork_server, home):
    """A token of the fake takes half a minute."""
    flags = ("--engine", "fake", "--test-mode", "--fake-tokens-per-second", "0.03", "--watchdog-seconds", "0.5")
    with serving(fork_server, home, *flags, "--num-kv-blocks", "1024") as server:
        with suppress(OSError, HTTPException):  # the process may be faster than its answer
            assert server.post("/v1/responses", {"input": "Hello", "background": True})["status"] != "completed"
        assert server.process.wait() == EXIT_CODE
        assert "engine.hangs" in server.process.out.text + server.process.err.text
