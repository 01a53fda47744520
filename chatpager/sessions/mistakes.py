"""How a mistake of our own is logged: what it was and where, never what it was about."""

from __future__ import annotations

import traceback
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

INTERNAL = ("internal_error", "the server made a mistake; the turn ended")
"""Code and message of a turn that a mistake ended."""


def log_mistake(event: str, error: BaseException, **facts: object) -> None:
    log.error(event, **told_of(error), **facts)


def told_of(error: BaseException) -> dict[str, str]:
    """An exception's message, and a traceback's local variables, may hold what people wrote: only its type is told, and
    the places in the code that it passed, the innermost first; and what the system said."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = [f"{Path(frame.filename).name}:{frame.name}:{frame.lineno}" for frame in frames]
    told = {"error": type(error).__name__, "at": " < ".join(places[:8])}
    return {**told, "reason": error.strerror} if isinstance(error, OSError) and error.strerror else told
