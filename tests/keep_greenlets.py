"""A plugin of coverage's that keeps every thread's main greenlet, so that the interpreter cannot spin when threads end.

To tell greenlets apart, coverage asks for the current one in every thread and holds it by a weak reference. When the
thread has ended, greenlet frees it in a pending call, where the reference's callback runs, a traced Python function.
CPython 3.11 cannot enter a traced function in a pending call while another is due: it turns to the due one, which must
wait for the first, for ever (``DO_TRACING`` in ceval.c checks the eval breaker before it consumes ``RESUME``). Two
threads that end at once are enough. A greenlet that somebody keeps has no callback; it is kept twice, because greenlet
takes away a last reference whose holder the garbage collector does not know (``~ThreadState``), and after
``gc.freeze()``, as in the fork server, it does not know this list.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import greenlet

KEPT: list[greenlet.greenlet] = []


def coverage_init(_registry: Any, _options: Any) -> None:
    threading.setprofile(keep)


def keep(_frame: Any, _event: str, _arg: Any) -> None:
    sys.setprofile(None)
    KEPT.extend(2 * [greenlet.getcurrent()])
