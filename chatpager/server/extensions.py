"""The ``chatpager`` object of a request: what is ours, the same on every wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from chatpager.errors import InvalidRequest
from chatpager.server.formats import OwnGrammar
from chatpager.server.input_items import check_text
from chatpager.sessions.around import Placement
from chatpager.sessions.keeping import KEPT_AT_MOST
from chatpager.sessions.turn_request import OnDisconnect

MAX_PRIORITY = 2**31 - 1
MAX_TITLE = 200
OF_NONE = "names a conversation, and this turn is of none"


class PinWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep on the device for ``ttl`` seconds from the turn's end: the conversation as it grows ("session"), or no more
    than what this turn asked the model ("prefix"). None is "session", and of a turn of none what it asked and said."""

    ttl: Annotated[float, msgspec.Meta(gt=0, le=KEPT_AT_MOST)]
    scope: Literal["session", "prefix"] | None = None


class Extensions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``on_disconnect``: what becomes of the turn when its reader leaves; without it ``Readers`` say.
    ``explain``: say where the prompt left what was computed for the turn before it. ``session_title`` is the
    conversation's name from now on."""

    grammar: OwnGrammar | None = None
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    on_disconnect: OnDisconnect | None = None
    pin: PinWish | None = None
    explain: bool = False
    session_title: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TITLE)] | None = None

    def keeps(self, seconds: float) -> bool:
        """Whether the prefix is to be kept: for so many ``seconds`` by the wire's own fields, or by a pin."""
        return seconds > 0 or self.pin is not None

    def wishes(self, keep_seconds: float = 0.0) -> dict[str, Any]:
        """Of a ``TurnRequest``; ``keep_seconds`` is what other fields ask for."""
        ttl, scope = (self.pin.ttl, self.pin.scope) if self.pin else (0.0, None)
        return {
            "priority": self.priority,
            "keep_seconds": max(keep_seconds, 0.0 if scope == "prefix" else ttl),
            "keep_prompt_seconds": ttl if scope == "prefix" else 0.0,
            "on_disconnect": self.on_disconnect,
            "explain": self.explain,
        }

    def check(self, *, stored: bool, session_id: str | None = None) -> list[str]:
        """The wishes that come to nothing, in words.

        Raises:
            InvalidRequest: a wish that cannot be met.
        """
        check_text(self.session_title or "", "chatpager.session_title")
        if self.on_disconnect == "continue" and not stored:
            message = "nothing is kept of a turn with store: false, so nobody could read how it went on; leave one out"
            raise InvalidRequest(f"chatpager.on_disconnect: {message}", param="chatpager.on_disconnect")
        if session_id is not None:
            return []
        told = [] if self.session_title is None else [f"chatpager.session_title {OF_NONE}"]
        return [*told, *([f"chatpager.pin.scope {OF_NONE}"] if self.pin and self.pin.scope == "session" else [])]


class ResponseExtensions(Extensions, frozen=True, forbid_unknown_fields=True):
    """``instructions``: where they stand."""

    instructions: Placement = "head"
