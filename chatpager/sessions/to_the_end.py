"""What is stored, and what is known of it in memory and in the engine, change together or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_running: set[asyncio.Task[Any]] = set()
"""The loop itself holds its tasks weakly."""


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns; whoever waits for it may be cancelled (its client left), ``work`` is not."""
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_heard)
        raise


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody is there any more whom its failure could be told."""
    if not task.cancelled():
        task.exception()
