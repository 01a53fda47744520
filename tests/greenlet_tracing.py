"""A plugin of coverage's that tells greenlets apart only while one runs.

SQLAlchemy's asyncio runs its statements in greenlets, each with frames of its own. With ``concurrency = ["greenlet"]``
coverage asks at every call and every return in every thread for the current greenlet, and looks it up in a dictionary
that is written in Python: the tests took up to a third longer. Here its tracer is told so at each switch instead, and
outside of greenlets is as fast as without them.

It also keeps CPython 3.11 from spinning for ever. What coverage looks up it holds by a weak reference; were a thread's
main greenlet among them, the reference's callback, a traced Python function, would run in a pending call when the
thread has ended, and the interpreter cannot enter one there while another call is due: it turns to the due one, which
must wait for the first (``DO_TRACING`` in ceval.c checks the eval breaker before it consumes ``RESUME``).
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import greenlet


def coverage_init(_registry: Any, _options: Any) -> None:
    greenlet.settrace(switched)
    threading.setprofile(begin)


def begin(_frame: Any, _event: str, _arg: Any) -> None:
    """In each new thread."""
    sys.setprofile(None)
    greenlet.settrace(switched)


def switched(_event: str, between: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
    tracer = sys.gettrace()
    if hasattr(tracer, "concur_id_func"):
        is_main = between[1].parent is None
        tracer.concur_id_func = None if is_main else greenlet.getcurrent
