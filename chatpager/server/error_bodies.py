"""Errors as every wire shows them."""

from __future__ import annotations

from chatpager.errors import ChatpagerError, EngineError, RequestError, StoreError
from chatpager.server import wire, wire_events

MAX_MESSAGE = 1000
"""Characters of an error's message, which may quote what came in."""


def error_frame(error: ChatpagerError) -> wire_events.ErrorFrame:
    status, body = error_body(error)
    return wire_events.ErrorFrame(status=status, error=body)


def error_body(error: ChatpagerError) -> tuple[int, wire.ErrorBody]:
    """An error as every wire shows it: (HTTP status, body). Details of our own mistakes stay in the log."""
    match error:
        case RequestError(message=message, param=param):
            # It may quote what came in, and bytes that are no UTF-8 come in as lone surrogates, which JSON cannot hold.
            message = message.encode(errors="backslashreplace").decode()
            message = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "..."
            return error.status, wire.ErrorBody(message=message, type=error.type, param=param, code=error.code)
        case EngineError():
            return error.status, wire.ErrorBody(message=str(error), type=error.type, param=None, code=error.code)
        case StoreError():
            message = "the server's database does not take this now; try again later"
            return error.status, wire.ErrorBody(message=message, type=error.type, param=None, code=error.code)
        case _:
            return 500, wire.ErrorBody(message="internal error", type="server_error", param=None, code="internal_error")
