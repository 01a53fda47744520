"""What the routes need, in one place, and the steps every wire takes with a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec
from aiohttp import web

from chatpager.config import ServerConfig
from chatpager.errors import EngineStopped, ResponseNotFound
from chatpager.server import wire
from chatpager.server.cache_diagnostics import diagnostics
from chatpager.server.encode_response import ResponseFacts, response_object
from chatpager.server.metrics import Metrics
from chatpager.server.requests import Served
from chatpager.sessions.answers import Answer, calls_of
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.keeping import BEAT_SECONDS
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn, TurnRequest, choice_id
from chatpager.store import Store, Turn, TurnKind, text_of

CALLED: dict[TurnKind, str] = {"response": "response", "chat": "chat completion"}


@dataclass
class Service:
    config: ServerConfig
    hub: SessionHub
    served: Served
    metrics: Metrics
    started_at: int
    draining: bool = False
    send_seconds: float = 30.0
    """A frame that a client does not take for so long ends its connection."""
    body_seconds: float = 60.0
    """From a request's head to the end of its body."""
    close_seconds: float = 5.0
    """A client has so long to take what is left for it, and then to answer a closing handshake."""
    stats_seconds: float = 10.0
    """An engine that has not ended its step after so long counts as stalled."""
    prefill_seconds: float = 0.25
    """Between two ``chatpager.prefill`` events of a response, at the least."""
    beat_seconds: float = BEAT_SECONDS
    """Between two signs of life that an open WebSocket gives of its conversations."""
    keepalive_seconds: float = 10.0
    """Between two comments of an event stream."""

    @property
    def store(self) -> Store:
        return self.hub.store


SERVICE = web.AppKey("service", Service)


def goes_on_alone(request: TurnRequest, *, told: bool) -> bool:
    """Whether a turn runs to its end when its reader goes: one that can be found again does, through its conversation,
    by its key, or by its id if the reader was ``told`` it."""
    found_again = told or request.session_id is not None or request.client_key is not None
    return request.stored and request.kind == "response" and found_again


async def begin(service: Service, request: TurnRequest) -> list[LiveTurn]:
    """Submit the turns that a request asks for, one a choice. A caller that is cancelled meanwhile leaves no turn
    behind that nobody can find.

    Raises:
        what ``SessionHub.submit_choices`` does.
    """
    if request.kind == "response":
        request = replace(request, body=lambda turn, ended: msgspec.to_builtins(final_response(turn, ended)))
    submitting = asyncio.ensure_future(service.hub.submit_choices(request))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(_abandon(service))
        raise


def _abandon(service: Service) -> Callable[[asyncio.Future[list[LiveTurn]]], None]:
    def settled(submitting: asyncio.Future[list[LiveTurn]]) -> None:
        if not submitting.cancelled() and submitting.exception() is None:
            for turn in submitting.result():
                reader_gone(service, turn, told=False)

    return settled


def reader_gone(service: Service, turn: LiveTurn, *, told: bool) -> None:
    """The only reader of a turn has left. ``told``: it knows the turn's id."""
    if turn.stream.ended is None and not goes_on_alone(turn.request, told=told):
        with suppress(EngineStopped):  # then the hub ends the turn
            service.hub.cancel(turn.request.tenant, turn.id)


# -- response objects -------------------------------------------------------------------------------------------------


def facts_of(turn: LiveTurn) -> ResponseFacts:
    request = turn.request
    return ResponseFacts(
        request.id, turn.created_at, request.model, request.previous_turn_id, request.session_id, request.parameters
    )


def final_response(turn: LiveTurn, ended: Ended) -> wire.Response:
    """The response at its end."""
    facts = ended.facts()
    return response_object(
        facts_of(turn),
        ended.status,
        answer=ended.answer if turn.token_ids else None,
        usage=turn.stored_usage(ended),
        receipt=facts["cache"],
        timings=facts["timings"],
        error={"code": ended.error_code, "message": ended.error_message or ""} if ended.error_code else None,
        completed_at=ended.at,
        diagnostics=diagnostics(turn.compared, turn.receipt) if turn.compared else None,
    )


def live_response(turn: LiveTurn) -> wire.Response:
    """The response as far as it was shown: what the engine gave beyond that is not in the journal yet."""
    answer = turn.stream.answer
    return response_object(facts_of(turn), answer=answer if answer.text or answer.calls else None)


async def stored_response(service: Service, tenant: str, response_id: str) -> wire.Response | dict[str, object]:
    """A response that has ended, as it was told then; or what is known of one that a crash ended, or whose end the
    store refused.

    Raises:
        ResponseNotFound: there is none.
    """
    turn = await service.store.turn(tenant, response_id)
    if await service.hub.orphans.end_if_any([turn]):
        turn = await service.store.turn(tenant, response_id)
    if turn.kind != "response":
        raise ResponseNotFound(f"no response {response_id!r}")
    body = await service.store.response(tenant, response_id)
    return body if body is not None else await rebuilt_response(service, turn)


async def rebuilt_response(service: Service, turn: Turn) -> wire.Response:
    answer = None
    if turn.tip_hash is not None:
        content = (await service.store.load_chain(turn.tenant, turn.tip_hash))[-1].content
        answer = Answer(text_of(content), tuple(calls_of(content)), 0)
    facts = ResponseFacts(turn.id, turn.created_at, turn.model, turn.previous_turn_id, turn.session_id, turn.request)
    return response_object(
        facts,
        turn.status,
        answer=answer,
        usage=turn.usage,
        receipt=turn.receipt,
        timings=turn.timings,
        error=turn.error,
        completed_at=turn.completed_at,
    )


async def delete_turn(service: Service, tenant: str, turn_id: str, kind: TurnKind) -> None:
    """Delete what is stored of a tenant's turn and of its request's other choices; those that run are ended first.

    Raises:
        ResponseNotFound: there is none of this kind.
    """
    live = service.hub.live(tenant, turn_id)
    if live is not None and live.request.kind == kind:
        choices = live.request.params.n
    else:
        turn = await service.store.turn(tenant, turn_id)
        if turn.kind != kind:
            raise ResponseNotFound(f"no {CALLED[kind]} {turn_id!r}")
        choices = turn.request.get("n", 1)
    names = [choice_id(turn_id, index) for index in range(choices)]
    for name in names:
        await service.hub.end(tenant, name)
    if live is not None and not live.request.stored:
        return
    for name in names[:0:-1]:  # the one that is named last: what is cut short here can be asked for again
        with suppress(ResponseNotFound):  # deleted before, by its own name
            await service.hub.delete_turn(tenant, name)
    await service.hub.delete_turn(tenant, turn_id)
