"""The server's log: structured lines on standard error, for people or for machines."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn
from chatpager.store import text_of

log = structlog.get_logger("chatpager")
SHARED = 3
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


def set_up_logs(form: str) -> None:
    """``form``: console or json."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Not the default: it shows local variables, and they may hold what people wrote.
        plain = structlog.dev.plain_traceback
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        processors.append(structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain))
    # What the engine and the libraries say, who know only the standard library's logging, in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors[:SHARED],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors[SHARED:]],
        )
    )
    logging.getLogger().handlers = [handler]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
