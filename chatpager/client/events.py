"""What happens while an answer comes, as a program wants to match it."""

from __future__ import annotations

from typing import Any, NamedTuple

from chatpager.client.reply import TERMINAL


class Created(NamedTuple):
    """The answer has a name, under which it can be resumed, cancelled and got; what was asked is stored."""

    response_id: str


class Prefill(NamedTuple):
    """Tokens of the prompt: done of the total, and of those the ones that were found in the cache."""

    done: int
    total: int
    cached: int


class Thought(NamedTuple):
    """What the model thinks first grows by this; it is no part of the answer."""

    text: str


class Text(NamedTuple):
    """The answer grows by this."""

    text: str


class Call(NamedTuple):
    """A tool is called; ``arguments`` is JSON."""

    call_id: str
    name: str
    arguments: str


class Lease(NamedTuple):
    """A lease on the conversation's prefix was clipped, expired or revoked (``change``)."""

    change: str
    strength: str
    tokens: int
    reason: str


class Ended(NamedTuple):
    """``status``: completed, incomplete, cancelled or failed; the account is in the answer's ``reply``."""

    status: str


Event = Created | Prefill | Thought | Text | Call | Lease | Ended


def event_of(event: dict[str, Any] | None) -> Event | None:
    """The wire's event as one of these; None for what only frames them, and for what a later server may send."""
    match event:
        case {"type": "response.created", "response": {"id": response_id}}:
            return Created(response_id)
        case {"type": "chatpager.prefill", "done": done, "total": total, "cached": cached}:
            return Prefill(done, total, cached)
        case {"type": "response.output_text.delta", "delta": text} if text:
            return Text(text)
        case {"type": "response.reasoning_text.delta", "delta": text} if text:
            return Thought(text)
        case {"type": "response.output_item.done", "item": {"type": "function_call", "status": "completed"} as call}:
            return Call(call["call_id"], call["name"], call["arguments"])
        case {"type": "chatpager.lease", "change": change, "strength": strength, "tokens": tokens, "reason": reason}:
            return Lease(change, strength, tokens, reason)
        case {"type": kind, "response": {"status": status}} if kind in TERMINAL:
            return Ended(status)
    return None
