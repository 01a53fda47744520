"""How the wires that answer with whole messages, and keep no object of them, tell of a turn's end."""

from __future__ import annotations

from typing import Any

from chatpager.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    EngineError,
    EngineStopped,
    GrammarFailed,
    InvalidRequest,
    StoreError,
    TurnTaken,
)
from chatpager.server import wire
from chatpager.server.encode_response import INTERRUPTED
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn

FAULTS = {
    e.code: e
    for e in (
        InvalidRequest,
        ContextLengthExceeded,
        CapacityExceeded,
        EngineStopped,
        GrammarFailed,
        StoreError,
        TurnTaken,
    )
}
"""What may end a turn that has begun, beside the engine's own mistakes."""


def failure(ended: Ended) -> tuple[int, wire.ErrorBody]:
    """The status and the error of an answer that did not come to a good end."""
    code, message = ended.error_code or INTERRUPTED.code, ended.error_message or INTERRUPTED.message
    fault = FAULTS.get(code, EngineStopped if code == INTERRUPTED.code else EngineError)
    return fault.status, wire.ErrorBody(message=message, type=fault.type, param=None, code=code)


def error_frame(error: wire.ErrorBody) -> str:
    """The last frame of OpenAI's event streams that have no types."""
    return f"data: {wire.encode(wire.ErrorAnswer(error))}"


def account(turn: LiveTurn, ended: Ended) -> dict[str, Any]:
    """The ``chatpager`` object of an answer."""
    ours: dict[str, Any] = {"state": ended.status, **ended.facts()}
    if warnings := turn.request.parameters.get("warnings"):
        ours["warnings"] = warnings
    return ours
