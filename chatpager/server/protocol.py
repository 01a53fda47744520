"""The Responses protocol over WebSocket, without a socket: frames in, events out; calls in, frames out.

In reading order: ``receive_text`` takes a frame; ``events_received`` is what the server shall now do; ``began``,
``refused``, ``not_cancelled``, ``turn_event`` and ``lease_changed`` tell what came of it; ``frames_to_send`` is what
the client shall now get. One response at a time: a further ``response.create`` waits until the one before has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from chatpager.errors import (
    ChatpagerError,
    EngineError,
    InvalidRequest,
    Overloaded,
    RequestError,
    ResponseNotFound,
    StoreError,
    UnsupportedEvent,
)
from chatpager.server import wire
from chatpager.server.encode_response import ResponseEncoder, ResponseFacts
from chatpager.server.input_items import Json, shown
from chatpager.server.requests import decode
from chatpager.sessions.stream import Ended, Event

SUBPROTOCOL = "chatpager.v1"
MAX_WAITING = 32
"""``response.create`` frames that may wait on one socket."""


MAX_MESSAGE = 1000
"""Characters of an error's message, which may quote what came in."""

NOT_OF_THE_BODY = {"type", "stream", "background"}
"""Fields of the frame itself, and those that say how HTTP is to answer: a socket always streams."""


class State(StrEnum):
    IDLE = "idle"
    BEGINNING = "beginning"
    STREAMING = "streaming"


class Call(StrEnum):
    CREATE = "create"
    BEGAN = "began"
    REFUSED = "refused"
    ENDED = "ended"


TRANSITIONS: dict[tuple[State, Call], State] = {
    (State.IDLE, Call.CREATE): State.BEGINNING,
    (State.BEGINNING, Call.BEGAN): State.STREAMING,
    (State.BEGINNING, Call.REFUSED): State.IDLE,
    (State.STREAMING, Call.ENDED): State.IDLE,
}


@dataclass(frozen=True)
class Create:
    """Begin a response with this body."""

    body: Json


@dataclass(frozen=True)
class Cancel:
    """End this response now."""

    response_id: str


@dataclass(frozen=True)
class Draft:
    """Somebody is writing a response's input: so far it is this body, or none any more. It gets no answer: what is
    wrong with it, the response will say."""

    body: Json | None


@dataclass(frozen=True)
class Prefetch:
    """Somebody is about to go on with this conversation. It gets no answer."""

    conversation: str


ClientEvent = Create | Cancel | Draft | Prefetch


class ResponsesProtocol:
    """One connection. ``extended`` clients (subprotocol ``chatpager.v1``) also get ``chatpager.*`` events."""

    def __init__(self, *, extended: bool = False) -> None:
        self.state = State.IDLE
        self._extended = extended
        self._waiting: deque[Create] = deque()
        self._events: list[ClientEvent] = []
        self._frames: list[str] = []
        self._encoder: ResponseEncoder | None = None
        """Of the response that streams; None otherwise."""

    # -- from the client ----------------------------------------------------------------------------------------------

    def receive_text(self, data: str) -> None:
        """Take one text frame. What is wrong with it becomes an error frame; the connection goes on."""
        try:
            self._receive(decode(data))
        except RequestError as error:
            self._error(error)

    def receive_binary(self) -> None:
        self._error(InvalidRequest("frames are text, one JSON object each"))

    def _receive(self, frame: Json) -> None:
        match frame.get("type"):
            case "response.create":
                if len(self._waiting) >= MAX_WAITING:
                    raise Overloaded(f"{MAX_WAITING} responses wait on this socket")
                self._waiting.append(Create({k: v for k, v in frame.items() if k not in NOT_OF_THE_BODY}))
                self._next()
            case "response.cancel":
                response_id = frame.get("response_id")
                if not isinstance(response_id, str):
                    raise InvalidRequest("response_id is missing", param="response_id")
                self._events.append(Cancel(response_id))
            case "chatpager.draft" if self._extended:
                body = {k: v for k, v in frame.items() if k not in NOT_OF_THE_BODY}
                self._events.append(Draft(body if body.get("input") else None))
            case "chatpager.prefetch" if self._extended:
                conversation = frame.get("conversation")
                if not isinstance(conversation, str):
                    raise InvalidRequest("conversation is missing", param="conversation")
                self._events.append(Prefetch(conversation))
            case str(kind):
                raise UnsupportedEvent(f"there is no event of type {shown(kind)}", param="type")
            case _:
                raise UnsupportedEvent("an event has a type", param="type")

    def events_received(self) -> list[ClientEvent]:
        """What to do now, each once."""
        events, self._events = self._events, []
        return events

    # -- from the server ----------------------------------------------------------------------------------------------

    def began(self, facts: ResponseFacts) -> None:
        """The response that ``Create`` asked for is stored; ``turn_event`` follows."""
        self._move(Call.BEGAN)
        self._encoder = ResponseEncoder(facts)

    def refused(self, error: ChatpagerError) -> None:
        """No response began."""
        self._move(Call.REFUSED)
        self._error(error)
        self._next()

    def not_cancelled(self, response_id: str, error: ChatpagerError) -> None:
        """A ``Cancel`` came to nothing. Of the response that streams here it came too late: the end is on its way."""
        if not (isinstance(error, ResponseNotFound) and self._encoder and self._encoder.response_id == response_id):
            self._error(error)

    def turn_event(self, event: Event, final: wire.Response | None = None) -> None:
        """The next event of the response's log; ``final`` goes with the last."""
        assert self._encoder is not None, self.state
        for frame in self._encoder.feed(event, final):
            if self._extended or not isinstance(frame, wire.PrefillEvent):
                self._frames.append(wire.encode(frame))
        if isinstance(event, Ended):
            self._encoder = None
            self._move(Call.ENDED)
            self._next()

    def lease_changed(self, frame: wire.LeaseFrame) -> None:
        """Something became of a lease on one of this client's conversations."""
        if self._extended:
            self._frames.append(wire.encode(frame))

    def frames_to_send(self) -> list[str]:
        """Text frames for the client, each once."""
        frames, self._frames = self._frames, []
        return frames

    def _next(self) -> None:
        if self.state is State.IDLE and self._waiting:
            self._move(Call.CREATE)
            self._events.append(self._waiting.popleft())

    def _move(self, call: Call) -> None:
        assert (self.state, call) in TRANSITIONS, f"{call} while {self.state}"
        self.state = TRANSITIONS[self.state, call]

    def _error(self, error: ChatpagerError) -> None:
        self._frames.append(error_frame(error))


def error_frame(error: ChatpagerError) -> str:
    status, body = error_body(error)
    return wire.encode(wire.ErrorFrame(status=status, error=body))


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
