"""The command in a process of its own, with an environment that holds no setting but those a test gives."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes import clean_env, traced


class Result(NamedTuple):
    code: int
    out: str
    err: str


Chatpager = Callable[..., Result]


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path


@pytest.fixture
def chatpager(fork_server, home) -> Chatpager:
    """Run ``chatpager ARGV`` in ``home`` to its end."""

    def run(*argv: object, typed: str = "", **env: str) -> Result:
        process = fork_server(*map(str, argv), env=clean_env(home, **traced(), **env), cwd=home)
        try:
            if typed:
                with suppress(BrokenPipeError):  # one that refuses its arguments may have ended before it is told more
                    process.say(typed)
            process.hang_up()
            return Result(process.wait(), process.out.whole(), process.err.whole())
        finally:
            process.end()

    return run
