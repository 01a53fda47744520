"""An engine for a thread or a process of its own, each of whose steps waits for a byte of a FIFO."""

import json
import os
import sys

from chatpager.sessions.engine_child import live
from tests.engine.fakes import make_engine


def build(settings):
    """``settings``: the FIFO's name and ``make_engine``'s arguments, as JSON."""
    told = json.loads(settings)
    steps = os.open(told.pop("steps"), os.O_RDWR)
    engine = make_engine(**told)
    run, close = engine.runner.run, engine.close
    engine.runner.run = lambda plan: os.read(steps, 1) and run(plan)
    engine.close = lambda: (os.close(steps), close())
    return engine


if __name__ == "__main__":
    live(build, sys.argv[1:])
