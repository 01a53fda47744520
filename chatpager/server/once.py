"""A response that is asked for twice is begun once: its key (the header ``Idempotency-Key``, or ``idempotency_key`` in
a WebSocket's frame) names it for its tenant, for as long as it is stored."""

from __future__ import annotations

from chatpager.errors import IdempotencyConflict
from chatpager.server.service import Service, begin
from chatpager.sessions.turn import KeyTaken, LiveTurn, TurnRequest


async def begin_once(service: Service, request: TurnRequest) -> LiveTurn | str:
    """The turn that the request begins, or the one that its key began before; only the id of one whose events are gone.

    Raises:
        IdempotencyConflict: the key came before with another request.
        what ``service.begin`` does.
    """
    while True:
        if request.client_key is not None:
            known = await service.store.turn_of_key(request.tenant, request.client_key)
            if known is not None:
                if known.request.get("sent") != request.parameters["sent"]:
                    raise IdempotencyConflict(f"this key came before with another request, for {known.id}")
                await service.hub.begun(known.id)
                return service.hub.told(request.tenant, known.id) or known.id
        try:
            (turn,) = await begin(service, request)
        except KeyTaken:
            continue  # by the same request, which came at the same time
        return turn
