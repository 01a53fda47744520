"""Going on with a response's events where a reader lost them, on any wire."""

from __future__ import annotations

from chatpager.errors import InvalidRequest, ResponseEventsExpired
from chatpager.server.encode_response import ResponseEncoder
from chatpager.server.reading import checked_place
from chatpager.server.service import Service, ended_response, facts_of, final_response
from chatpager.sessions.stream import Prefilled
from chatpager.sessions.turn import LiveTurn

MAX_DIGITS = 18


def event_number(text: str) -> int:
    """``starting_after`` of an address. Raises InvalidRequest."""
    is_number = text.removeprefix("-").isdecimal() and len(text) <= MAX_DIGITS
    return checked_place(int(text) if is_number else None)


def at_hand(service: Service, tenant: str, response_id: str) -> LiveTurn | None:
    """A stored response that runs, or ended a moment ago."""
    turn = service.hub.turns.told(tenant, response_id)
    return turn if turn is not None and turn.request.kind == "response" and turn.request.stored else None


async def resumable(service: Service, tenant: str, response_id: str, after: int) -> LiveTurn:
    """A response whose events can be told from the first on, so also those behind the number ``after``.

    Raises:
        InvalidRequest: it has ended before it came to that number.
        ResponseElsewhere: another server computes it.
        ResponseNotFound: there is none, or it is not stored: it ends with the reader that it has.
        ResponseEventsExpired: it ended too long ago, or before a restart; what is kept of it is the whole.
    """
    if turn := at_hand(service, tenant, response_id):
        _check_reached(turn, after)
        service.metrics.resumed(recovered=True)
        return turn
    await ended_response(service, tenant, response_id)
    service.metrics.resumed(recovered=False)
    raise ResponseEventsExpired(
        f"the response has ended and its events are gone; GET /v1/responses/{response_id} has the whole",
        param="response_id",
    )


def _check_reached(turn: LiveTurn, after: int) -> None:
    ended, events = turn.stream.ended, [event for event in turn.stream.events if not isinstance(event, Prefilled)]
    if ended is None or after < len(events):  # each of them is told with one number at the least
        return
    encoder, final = ResponseEncoder(facts_of(turn)), final_response(turn, ended)
    count = sum(1 for event in events for _ in encoder.feed(event, final))
    if after >= count:
        raise InvalidRequest(
            f"starting_after: the response has ended with event {count - 1}; send the number of the last one you have",
            param="starting_after",
        )
