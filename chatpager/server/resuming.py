"""Going on with a response's events where a reader lost them, on any wire."""

from __future__ import annotations

from chatpager.errors import InvalidRequest, ResponseEventsExpired
from chatpager.server.service import Service, stored_response
from chatpager.sessions.turn import LiveTurn

MAX_DIGITS = 18


def event_number(text: str) -> int:
    """``starting_after`` of an address. Raises InvalidRequest."""
    if not text.removeprefix("-").isdecimal() or len(text) > MAX_DIGITS:
        raise InvalidRequest("starting_after is an event's number", param="starting_after")
    return int(text)


async def resumable(service: Service, tenant: str, response_id: str) -> LiveTurn:
    """A response whose events can be told from the first on.

    Raises:
        ResponseNotFound: there is none, or it is not stored: it ends with the reader that it has.
        ResponseEventsExpired: it ended too long ago, or before a restart; what is kept of it is the whole.
    """
    turn = service.hub.told(tenant, response_id)
    if turn is not None and turn.request.kind == "response" and turn.request.stored:
        service.metrics.resumed(recovered=True)
        return turn
    await stored_response(service, tenant, response_id)
    service.metrics.resumed(recovered=False)
    raise ResponseEventsExpired(
        f"the response has ended and its events are gone; GET /v1/responses/{response_id} has the whole",
        param="response_id",
    )
