"""The server's log: structured lines on standard error, for people or for machines."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from chatpager.sessions.mistakes import told_of
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn
from chatpager.store import text_of

log = structlog.get_logger("chatpager")
MAX_VALUE = 16_384
"""Characters of one value in a line: with ``--log-content`` it may be all that somebody said."""
CONTROLS = re.compile("[\\0-\\x1f\\x7f-\\x9f\\u2028\\u2029]")
"""Characters that end a line or tell a terminal what to do."""
LOST = {
    "console": "log.lost lines=%d: they could not be written\n",
    "json": '{"event": "log.lost", "level": "error", "lines": %d}\n',
}
SHARED = 5
"""Processors that add to an event; those behind them make a line of it."""


def log_turn(turn: LiveTurn, ended: Ended, *, content: bool = False) -> None:
    """One line a turn; what was said in it only where the log shall have the ``content``."""
    said = {"input": _asked(turn), "output": ended.text} if content else {}
    log.info(
        "turn",
        request_id=turn.request_id,
        id=turn.id,
        tenant=turn.request.tenant,
        session=turn.request.session_id,
        client_session=turn.client_session,
        status=ended.status,
        reason=ended.finish,
        prompt=len(turn.prompt),
        cached=ended.receipt.cached_tokens if ended.receipt else 0,
        miss=ended.receipt.miss_reason if ended.receipt else None,
        generated=ended.output_tokens,
        ttft_ms=ended.timings.ttft_ms,
        tok_s=ended.timings.decode_tok_s,
        error=ended.error_code,
        **said,
    )


def _asked(turn: LiveTurn) -> list[object]:
    prompt = turn.request.prompt
    return [text_of(m.content) for m in turn.request.messages] if prompt is None else [prompt]


def _placed(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of an exception, the libraries' too, what ``log_mistake`` tells."""
    found = event.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event.update({name: value for name, value in told_of(error).items() if name not in event})
    return event


def _bounded(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Values that are not too long, end no line but with it and are text to a terminal."""
    return {name: _cut(value) for name, value in event.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(one) for one in value]
    if not isinstance(value, str):
        return value
    cut = value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]}... ({len(value)} characters)"
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), cut)


class Lossy:
    """A stream whose lines are dropped and counted where they cannot be written: the disk is full, or who read them has
    gone. The next one that can be written says how many those were."""

    def __init__(self, stream: TextIO, form: str) -> None:
        self._stream = stream
        self._told = LOST[form]
        self._lost = 0

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a stream that is closed; it is counted when it is flushed
            if self._lost:
                self._stream.flush()
                self._stream.write(self._told % self._lost)
                self._lost = 0
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lost += 1


def set_up_logs(form: str) -> None:
    """``form``: console or json."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _placed,
        _bounded,
    ]
    if form == "json":
        processors.append(structlog.processors.JSONRenderer())
    else:
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        processors.append(structlog.dev.ConsoleRenderer(colors=colours))
    # What the engine and the libraries say, who know only the standard library's logging, in the same form.
    stream = cast(TextIO, Lossy(sys.stderr, form))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors[:SHARED],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors[SHARED:]],
        )
    )
    logging.getLogger().handlers = [handler]
    logging.getLogger("chatpager").setLevel(logging.INFO)  # how far a start is
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
