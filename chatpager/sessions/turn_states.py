"""The states of a turn, and what moves it from one to the next."""

from __future__ import annotations

from enum import StrEnum

from chatpager.engine.messages import FinishReason
from chatpager.store import EndStatus


class TurnState(StrEnum):
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    CLOSING = "closing"
    ENDED = "ended"


DECODE = TurnState.DECODE
"""Looked up once: most outputs are of a turn in this state."""
OVER = TurnState.CLOSING, TurnState.ENDED


class Happening(StrEnum):
    PREFILLED = "prefilled"
    TOKEN = "token"  # noqa: S105
    LAST = "last"
    STORED = "stored"


TRANSITIONS: dict[tuple[TurnState, Happening], TurnState] = {
    (TurnState.QUEUED, Happening.PREFILLED): TurnState.PREFILL,
    (TurnState.QUEUED, Happening.TOKEN): TurnState.DECODE,
    (TurnState.QUEUED, Happening.LAST): TurnState.CLOSING,
    (TurnState.PREFILL, Happening.PREFILLED): TurnState.PREFILL,
    (TurnState.PREFILL, Happening.TOKEN): TurnState.DECODE,
    (TurnState.PREFILL, Happening.LAST): TurnState.CLOSING,
    (TurnState.DECODE, Happening.TOKEN): TurnState.DECODE,
    (TurnState.DECODE, Happening.LAST): TurnState.CLOSING,
    (TurnState.CLOSING, Happening.STORED): TurnState.ENDED,
}

ENDINGS: dict[FinishReason, EndStatus] = {
    FinishReason.STOP: "completed",
    FinishReason.LENGTH: "incomplete",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.ERROR: "failed",
}
