"""Errors as every wire shows them."""

from __future__ import annotations

import msgspec

from chatpager.errors import (
    MAX_SHOWN,
    ChatpagerError,
    EngineError,
    EngineStopped,
    Overloaded,
    RateLimited,
    RequestError,
    ResponseElsewhere,
    StorageFull,
    StoreError,
)
from chatpager.server import wire, wire_events

MAX_MESSAGE = 1000
"""Characters of an error's message, which may quote what came in."""


RETRY_SECONDS = 1.0
"""When to try again what does not say it itself."""
LATER = (429, 503)
"""Statuses of what may go well at another time."""


def error_frame(error: ChatpagerError, about: str | None = None) -> wire_events.ErrorFrame:
    status, body = error_body(error)
    seconds = retry_after(error)
    later = msgspec.UNSET if seconds is None else round(1000 * seconds)
    return wire_events.ErrorFrame(status=status, error=body, retry_after_ms=later, about=about or msgspec.UNSET)


def retry_after(error: ChatpagerError) -> float | None:
    """Seconds until the same may be asked again; None: it would be refused again."""
    if isinstance(error, Overloaded | RateLimited | ResponseElsewhere):
        return error.retry_after
    if isinstance(error, EngineStopped) or error_body(error)[0] not in LATER:
        return None
    return RETRY_SECONDS


def error_body(error: ChatpagerError) -> tuple[int, wire.ErrorBody]:
    """An error as every wire shows it: (HTTP status, body). Details of our own mistakes stay in the log."""
    match error:
        case RequestError(message=message, param=param):
            # It may quote what came in, and bytes that are no UTF-8 come in as lone surrogates, which JSON cannot hold.
            message = message.encode(errors="backslashreplace").decode()
            message = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "..."
            param = param if param is None or len(param) <= MAX_SHOWN else f"{param[: MAX_SHOWN - 3]}..."  # may be sent
            return error.status, wire.ErrorBody(message=message, type=error.type, param=param, code=error.code)
        case EngineError():
            return error.status, wire.ErrorBody(message=str(error), type=error.type, param=None, code=error.code)
        case StorageFull():
            message = "the server's disk is full: delete conversations, or have its operator make room there"
            return error.status, wire.ErrorBody(message=message, type=error.type, param=None, code=error.code)
        case StoreError():
            message = "the server's database does not take this now; try again later"
            return error.status, wire.ErrorBody(message=message, type=error.type, param=None, code=error.code)
        case _:
            return 500, wire.ErrorBody(message="internal error", type="server_error", param=None, code="internal_error")
