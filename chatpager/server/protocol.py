"""The Responses protocol over WebSocket, without a socket: frames in, events out; calls in, frames out.

In reading order: ``receive_text`` takes a frame; ``events_received`` is what the server shall now do; ``began``,
``refused``, ``not_cancelled``, ``turn_event`` and ``lease_changed`` tell what came of it; ``frames_to_send`` is what
the client shall now get.

A lane is a client's own name for one line of responses (``stream_id``); None is the lane of those who name none. In a
lane there is one response at a time, and what else is asked for waits until it has ended; lanes go on side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from chatpager.errors import (
    ChatpagerError,
    InvalidRequest,
    Overloaded,
    RequestError,
    ResponseNotFound,
    TooManyLanes,
    UnsupportedEvent,
    shown,
)
from chatpager.server import wire, wire_events
from chatpager.server.client_events import Cancel, ClientEvent, Create, Draft, Lane, LetGo, Prefetch, Resume, Withdraw
from chatpager.server.encode_response import ResponseEncoder, ResponseFacts
from chatpager.server.error_bodies import error_frame
from chatpager.server.input_items import Json
from chatpager.server.reading import checked_key, checked_place, decode
from chatpager.sessions.answers import Delta
from chatpager.sessions.stream import Ended, Event

SUBPROTOCOL = "chatpager.v1"
MAX_WAITING = 32
"""Frames that may wait on one socket, over all its lanes."""
MAX_LANES = 32
"""That are in use on one socket at once."""
MAX_LANE_NAME = MAX_RESPONSE_ID = 128
NOT_OF_THE_BODY = {"type", "stream", "background", "stream_id", "idempotency_key"}
"""Fields of the frame itself, and those that say how HTTP is to answer: a socket always streams."""
DRAFT, PING, PREFETCH = "chatpager.draft", "chatpager.ping", "chatpager.prefetch"
ASIDE = (DRAFT, PING, PREFETCH)
"""Frames of ours that begin no response."""
FRAME = "frame"
"""What an error is about that answers something without a type that could be said."""
MAX_TYPE = 128


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


@dataclass(slots=True)
class _LaneState:
    state: State = State.IDLE
    waiting: deque[Create | Resume] = field(default_factory=deque)
    encoder: ResponseEncoder | None = None
    """Of the response that streams; None otherwise."""
    after: int = -1
    """The client has its events up to this number."""
    cancelled: bool = False
    """By the lane's name, before the response had one of its own."""


def frame_of(text: str) -> Json | RequestError:
    """What is sent, or what is wrong with it. Needs nothing of a connection."""
    try:
        return decode(text)
    except RequestError as error:
        return error


class ResponsesProtocol:
    """One connection. ``extended`` clients (subprotocol ``chatpager.v1``) also get ``chatpager.*`` events."""

    __slots__ = ("_events", "_extended", "_frames", "_lanes")

    def __init__(self, *, extended: bool = False) -> None:
        self._extended = extended
        self._lanes: dict[Lane, _LaneState] = {}
        """Those that are in use."""
        self._events: list[ClientEvent] = []
        self._frames: list[bytes] = []

    def state(self, lane: Lane = None) -> State:
        return self._lanes[lane].state if lane in self._lanes else State.IDLE

    # -- from the client ----------------------------------------------------------------------------------------------

    def receive_text(self, data: str) -> None:
        """Take one text frame. What is wrong with it becomes an error frame; the connection goes on."""
        self.receive_frame(frame_of(data))

    def receive_frame(self, frame: Json | RequestError, keep: Callable[[], LetGo] = lambda: _nothing) -> None:
        """``receive_text``, of what ``frame_of`` has read: elsewhere, where it was long. ``keep`` is called where its
        body stays here, or goes on in a ``Create`` or ``Draft``."""
        if isinstance(frame, RequestError):
            self._unreadable(frame)
            return
        try:
            self._receive(frame, keep)
        except RequestError as error:
            self._mistaken(frame, error)

    def receive_binary(self) -> None:
        self._unreadable(InvalidRequest("frames are text, one JSON object each"))

    def _unreadable(self, error: RequestError) -> None:
        """It may have asked for a response: where there is none, nobody shall wait for it."""
        about = None if self.state() is State.IDLE else FRAME
        self._send(error_frame(error, about), None)

    def _mistaken(self, frame: Json, error: RequestError) -> None:
        """Where it asked for a response in a lane in which there is none, this is that one's end; else no response is
        to be taken for what was refused."""
        lane, kind = frame.get("stream_id"), frame.get("type")
        lane = lane if isinstance(lane, str) and 0 < len(lane) <= MAX_LANE_NAME else None
        if kind in ("response.create", "response.resume") and self.state(lane) is State.IDLE:
            self._error(error, lane)
        elif self._extended and kind in ASIDE:
            self.refused_aside(kind, error)
        else:
            about = kind if isinstance(kind, str) and len(kind) <= MAX_TYPE else FRAME
            self._send(error_frame(error, about), lane)

    def resume(self, response_id: str, after: int) -> None:
        """As a client asks for by the address with which it connects."""
        self._wait(Resume(response_id, after))

    def _receive(self, frame: Json, keep: Callable[[], LetGo]) -> None:
        match frame.get("type"):
            case "response.create":
                body = {k: v for k, v in frame.items() if k not in NOT_OF_THE_BODY}
                lane, key = _lane_of(frame), checked_key(frame.get("idempotency_key"), "idempotency_key")
                self._check_room(lane)
                self._wait(Create(body, lane, key, keep()))
            case "response.resume":
                after = checked_place(frame.get("starting_after", -1))
                resume = Resume(_response_id(frame), after, _lane_of(frame))
                self._check_room(resume.lane)
                self._wait(resume)
            case "response.cancel" if "response_id" not in frame and "stream_id" in frame:
                self._cancel_lane(_lane_of(frame))
            case "response.cancel":
                self._events.append(Cancel(_response_id(frame), _lane_of(frame)))
            case "chatpager.draft" if self._extended:
                body = {k: v for k, v in frame.items() if k not in NOT_OF_THE_BODY}
                is_none = body.get("input") in (None, "", [])
                self._events.append(Draft(None) if is_none else Draft(body, keep()))
            case "chatpager.ping" if self._extended:
                t = frame.get("t")
                if t is not None and (not isinstance(t, int | float) or isinstance(t, bool)):
                    raise InvalidRequest("t is a number, which comes back", param="t")
                self._send(wire_events.PongFrame(t=t), None)
            case "chatpager.prefetch" if self._extended:
                conversation = frame.get("conversation")
                if not isinstance(conversation, str):
                    raise InvalidRequest("conversation is missing", param="conversation")
                self._events.append(Prefetch(conversation))
            case str(kind):
                hint = "" if self._extended else f"; those of ours need the subprotocol {SUBPROTOCOL}"
                raise UnsupportedEvent(f"there is no event of type {shown(kind)}{hint}", param="type")
            case _:
                raise UnsupportedEvent("an event has a type", param="type")

    def _check_room(self, lane: Lane) -> None:
        waiting = sum(len(one.waiting) for one in self._lanes.values())
        if waiting >= MAX_WAITING and self.state(lane) is not State.IDLE:
            raise Overloaded(f"{MAX_WAITING} responses wait on this socket; send it when one has begun")
        if lane not in self._lanes and len(self._lanes) >= MAX_LANES:
            told = f"{MAX_LANES} lanes are in use on this socket; let one end, or open another socket"
            raise TooManyLanes(told, param="stream_id")

    def _wait(self, asked: Create | Resume) -> None:
        self._lanes.setdefault(asked.lane, _LaneState()).waiting.append(asked)
        self._next(asked.lane)

    def _cancel_lane(self, name: Lane) -> None:
        lane = self._lanes.get(name)
        if lane is None:
            raise ResponseNotFound("no response is running in this lane", param="stream_id")
        if lane.encoder:
            self._events.append(Cancel(lane.encoder.response_id, name))
        elif not lane.cancelled:
            lane.cancelled = True
            self._events.append(Withdraw(name))

    def events_received(self) -> list[ClientEvent]:
        """What to do now, each once."""
        events, self._events = self._events, []
        return events

    # -- from the server ----------------------------------------------------------------------------------------------

    def began(self, facts: ResponseFacts, lane: Lane = None, after: int = -1) -> None:
        """The response that ``Create`` or ``Resume`` asked for is there; ``turn_event`` follows."""
        self._move(Call.BEGAN, lane)
        self._lanes[lane].encoder, self._lanes[lane].after = ResponseEncoder(facts), after
        if self._lanes[lane].cancelled:
            self._events.append(Cancel(facts.id, lane))

    def refused(self, error: ChatpagerError, lane: Lane = None) -> None:
        """No response began."""
        self._move(Call.REFUSED, lane)
        self._error(error, lane)
        self._next(lane)

    def not_cancelled(self, response_id: str, error: ChatpagerError, lane: Lane = None) -> None:
        """A ``Cancel`` came to nothing. Of a response that streams here it came too late: the end is on its way."""
        here = (one.encoder.response_id for one in self._lanes.values() if one.encoder)
        if not (isinstance(error, ResponseNotFound) and response_id in here):
            self._send(error_frame(error, "response.cancel"), lane)

    def refused_aside(self, kind: str, error: ChatpagerError) -> None:
        """A frame of this kind, of those in ``ASIDE``, is wrong; the right ones get no answer, but a ping its pong."""
        self._send(error_frame(error, about=kind), None)

    def resumed(self, frame: wire_events.ResumedFrame, lane: Lane = None) -> None:
        """What became of a ``Resume``: before ``began``, or before ``refused``."""
        if self._extended:
            self._send(frame, lane)

    def turn_event(self, event: Event, final: wire.Response | None = None, lane: Lane = None) -> None:
        """The next event of the response's log; ``final`` goes with the last."""
        streams = self._lanes.get(lane)
        assert streams and streams.encoder, self.state(lane)
        if isinstance(event, Delta) and (told := streams.encoder.told(event)):
            number, text = told  # most events by far
            if number > streams.after:
                self._frames.append(text if lane is None else wire_events.in_lane(lane, text))
            return
        if isinstance(event, Ended):
            self.turn_ended(self.last_frames(event, final, lane), lane)
            return
        for frame in streams.encoder.feed(event):
            if isinstance(frame, wire_events.PrefillEvent):
                if self._extended:
                    self._send(frame, lane)
            elif frame.sequence_number > streams.after:
                self._send(frame, lane)

    def last_frames(self, event: Ended, final: wire.Response | None, lane: Lane = None) -> Iterator[bytes]:
        """The frames of the log's last event, for ``turn_ended``. Where there are many log probabilities to tell they
        are made in a thread: that touches what is this response's alone."""
        streams = self._lanes.get(lane)
        assert streams and streams.encoder, self.state(lane)
        for frame in streams.encoder.feed(event, final):
            assert not isinstance(frame, wire_events.PrefillEvent), "it has begun"
            if frame.sequence_number > streams.after or _is_last(frame):
                yield wire_events.encode_in(lane, frame)  # also to a client that has more numbers than there are

    def turn_ended(self, frames: Iterable[bytes], lane: Lane = None) -> None:
        """The response is told to its end by these."""
        for frame in frames:
            self._frames.append(frame)
        self._lanes[lane].encoder = None
        self._move(Call.ENDED, lane)
        self._next(lane)

    def retold(self, events: Sequence[wire_events.Event], lane: Lane = None) -> None:
        """The response that ``Create`` asked for ended long ago: these are all its events."""
        self._move(Call.BEGAN, lane)
        for event in events:
            self._send(event, lane)
        self._move(Call.ENDED, lane)
        self._next(lane)

    def told_again(self, frames: Sequence[bytes], lane: Lane = None, after: int = -1) -> None:
        """The response that ``Resume`` asked for has ended: ``frames`` are its events, by their numbers. The last is
        told also to who has it."""
        self._move(Call.BEGAN, lane)
        left = frames[after + 1 :] or frames[-1:]
        self._frames += left if lane is None else [wire_events.in_lane(lane, frame) for frame in left]
        self._move(Call.ENDED, lane)
        self._next(lane)

    def lease_changed(self, frame: wire_events.LeaseFrame) -> None:
        """Something became of a lease on one of this client's conversations."""
        if self._extended:
            self._send(frame, None)

    def frames_to_send(self) -> list[bytes]:
        """Text frames for the client, in UTF-8, each once."""
        frames, self._frames = self._frames, []
        return frames

    def _next(self, name: Lane) -> None:
        lane = self._lanes[name]
        if lane.state is not State.IDLE:
            return
        if lane.waiting:
            self._move(Call.CREATE, name)
            lane.cancelled = False
            self._events.append(lane.waiting.popleft())
        else:
            del self._lanes[name]

    def _move(self, call: Call, name: Lane) -> None:
        state = self.state(name)
        assert (state, call) in TRANSITIONS, f"{call} while {state}"
        self._lanes.setdefault(name, _LaneState()).state = TRANSITIONS[state, call]

    def _send(self, frame: wire_events.Frame, lane: Lane) -> None:
        self._frames.append(wire_events.encode_in(lane, frame))

    def _error(self, error: ChatpagerError, lane: Lane = None) -> None:
        self._send(error_frame(error), lane)


def _nothing() -> None:
    """Of a frame whose bytes nobody counts."""


def _is_last(frame: wire_events.Event) -> bool:
    return isinstance(frame, wire_events.ResponseEvent)


def _response_id(frame: Json) -> str:
    if "response_id" not in frame:
        cancels = frame.get("type") == "response.cancel"
        hint = ", and so is stream_id: null is the lane without a name" if cancels else ""
        raise InvalidRequest(f"response_id is missing{hint}", param="response_id")
    response_id = frame["response_id"]
    if not isinstance(response_id, str) or len(response_id) > MAX_RESPONSE_ID:
        raise InvalidRequest(f"response_id is a text of at most {MAX_RESPONSE_ID} characters", param="response_id")
    return response_id


def _lane_of(frame: Json) -> Lane:
    lane = frame.get("stream_id")
    if lane is not None and not (isinstance(lane, str) and 0 < len(lane) <= MAX_LANE_NAME):
        raise InvalidRequest(f"a stream_id is a text of 1 to {MAX_LANE_NAME} characters", param="stream_id")
    return lane
