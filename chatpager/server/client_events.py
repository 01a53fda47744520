"""What a client of the WebSocket wants done, as its frames say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chatpager.server.input_items import Json

Lane = str | None
"""A client's own name for one line of responses; None: it names none."""
LetGo = Callable[[], None]
"""To be called, once, when what came is needed no more: its bytes count until then."""


@dataclass(frozen=True)
class Create:
    """Begin a response with this body, unless its ``key`` (the frame's ``idempotency_key``) has begun one before.
    ``let_go``: when it has begun, or will not."""

    body: Json
    lane: Lane = None
    key: str | None = None
    let_go: LetGo = field(default=lambda: None, compare=False)


@dataclass(frozen=True)
class Resume:
    """Tell a response's events again, those behind the number ``after``, and go on as they come."""

    response_id: str
    after: int = -1
    lane: Lane = None


@dataclass(frozen=True)
class Cancel:
    """End this response now."""

    response_id: str
    lane: Lane = None


@dataclass(frozen=True)
class Withdraw:
    """Do not begin what is just beginning in this lane."""

    lane: Lane = None


@dataclass(frozen=True)
class Draft:
    """Somebody is writing a response's input: so far it is this body, or none any more. It gets no answer, unless no
    response could ever come of it. ``let_go``: when it was passed on, or another has taken its place."""

    body: Json | None
    let_go: LetGo = field(default=lambda: None, compare=False)


@dataclass(frozen=True)
class Prefetch:
    """Somebody is about to go on with this conversation. It gets no answer, unless there is none."""

    conversation: str


ClientEvent = Create | Resume | Cancel | Withdraw | Draft | Prefetch
