"""The event loop of a process that has thousands of sockets."""

from __future__ import annotations

import asyncio


def event_loop_runner() -> asyncio.Runner:
    """On uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
