"""What the routes need, in one place, and the steps every wire takes with a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from chatpager.config import ServerConfig
from chatpager.errors import EngineStopped, Overloaded, RateLimited, ResponseElsewhere, ResponseNotFound, shown
from chatpager.server import wire, wire_admin
from chatpager.server.cache_diagnostics import diagnostics
from chatpager.server.encode_response import ResponseFacts, response_object
from chatpager.server.keyed import Keyed, text_as_it_is, whole_turns
from chatpager.server.metrics import Metrics
from chatpager.server.readers import Readers, found_again
from chatpager.server.requests import Served
from chatpager.sessions.answers import Answer, Reasoning, calls_of
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.keeping import BEAT_SECONDS
from chatpager.sessions.logprobs import logprobs_of
from chatpager.sessions.quotas import Allowed
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest, choice_id
from chatpager.sessions.turn_states import TurnState
from chatpager.store import Message, MessageHash, Store, Turn, TurnKind, text_of

CALLED: dict[TurnKind, str] = {
    "response": "response",
    "chat": "chat completion",
    "completion": "completion",
    "message": "message",
}


@dataclass
class Service:
    config: ServerConfig
    hub: SessionHub
    served: Served
    metrics: Metrics
    started_at: int
    settings: Sequence[wire_admin.Setting] = ()
    """As admins are shown them."""
    draining: bool = False
    send_seconds: float = 8.0
    """A frame that a client does not take for so long ends its connection."""
    frames_per_second: float = 100.0
    """That one WebSocket may send in the long run."""
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
    look_seconds: float = 1.0
    """Between two looks that an admin's page is told of."""

    def __post_init__(self) -> None:
        self.keyed = Keyed(whole_turns)
        self.answered = Keyed(text_as_it_is)
        self.hub.quotas.default = Allowed(
            self.config.requests_per_minute, self.config.tokens_per_minute, self.config.max_conversations
        )
        self.readers = Readers(self.config.detach_grace, self.stop, self.hub.attend)

    @property
    def store(self) -> Store:
        return self.hub.store

    def stop(self, turn: LiveTurn) -> None:
        """End a turn, if it runs, for want of readers."""
        if turn.stream.ended is None:
            with suppress(EngineStopped):  # then the hub ends the turn
                self.hub.cancel(turn.request.tenant, turn.id)


SERVICE = web.AppKey("service", Service)


async def begin(
    service: Service, request: TurnRequest, *, unwanted: Callable[[], bool] = lambda: False
) -> list[LiveTurn]:
    """Submit the turns that a request asks for, one a choice. A caller that is cancelled meanwhile leaves no turn
    behind that nobody can find; and none at all where it says that the turns are ``unwanted``.

    Raises:
        what ``SessionHub.submit_choices`` does.
    """
    if request.kind == "response":
        request = replace(request, body=final_response)
    submitting = asyncio.ensure_future(service.hub.submit_choices(request))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        if unwanted():
            submitting.cancel()
            submitting.add_done_callback(lambda submitted: _undo(service, request, submitted))
        else:
            submitting.add_done_callback(abandoned(service, told=False))
        raise
    except (Overloaded, RateLimited) as error:
        service.metrics.refused(error)
        raise


def _undo(service: Service, request: TurnRequest, submitted: asyncio.Future[list[LiveTurn]]) -> None:
    """End what had begun before the submitting could be cancelled."""
    if submitted.cancelled() or submitted.exception() is None:
        for index in range(request.params.n):
            if turn := service.hub.turns.live(request.tenant, choice_id(request.id, index)):
                service.stop(turn)


async def begin_all(service: Service, requests: Sequence[TurnRequest]) -> Sequence[LiveTurn]:
    """All of them or none. Raises what ``begin`` does."""
    turns: list[LiveTurn] = []
    try:
        for request in requests:
            turns += await begin(service, request)
    except BaseException:
        for turn in turns:
            service.stop(turn)
        raise
    return turns


def abandon(service: Service, turn: LiveTurn, *, told: bool) -> None:
    """Who was waiting for it has left; ``told`` as ``Readers`` has it."""
    if found_again(turn.request, told=told):
        with service.readers.reading(turn, told=told):
            pass
    else:  # its id was told to nobody, whatever was to become of it
        service.stop(turn)


def abandoned(service: Service, *, told: bool) -> Callable[[asyncio.Future[Any]], None]:
    """What is to be done with the turns that somebody was waiting for who has left; ``told`` as ``Readers`` has it."""

    def settled(beginning: asyncio.Future[Sequence[LiveTurn]]) -> None:
        if not beginning.cancelled() and beginning.exception() is None:
            for turn in beginning.result():
                abandon(service, turn, told=told)

    return settled


# -- response objects -------------------------------------------------------------------------------------------------


def facts_of(turn: LiveTurn) -> ResponseFacts:
    request = turn.request
    return ResponseFacts(
        request.id, turn.created_at, request.model, request.previous_turn_id, request.session_id, request.parameters
    )


def facts_stored(turn: Turn) -> ResponseFacts:
    return ResponseFacts(turn.id, turn.created_at, turn.model, turn.previous_turn_id, turn.session_id, turn.request)


def final_response(turn: LiveTurn, ended: Ended) -> wire.Response:
    """The response at its end."""
    facts = ended.facts()
    return response_object(
        facts_of(turn),
        ended.status,
        answer=ended.answer if turn.token_ids else None,
        logprobs=logprobs_of(turn.stream.events) if turn.request.params.logprobs is not None else (),
        usage=turn.stored_usage(ended),
        receipt=facts["cache"],
        timings=facts["timings"],
        error={"code": ended.error_code, "message": ended.error_message or ""} if ended.error_code else None,
        completed_at=ended.at,
        diagnostics=diagnostics(turn.compared, turn.receipt) if turn.compared else None,
    )


def live_response(turn: LiveTurn) -> wire.Response:
    """The response as far as it was shown: what the engine gave beyond that is not in the journal yet. ``queued`` is
    one that runs in the background, until the engine has begun with it."""
    answer = turn.stream.answer
    waits = turn.state is TurnState.QUEUED and turn.request.parameters.get("background")
    state = "queued" if waits else "in_progress"
    return response_object(
        facts_of(turn), state, answer=answer if answer.text or answer.calls or answer.reasoning else None
    )


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
        raise ResponseNotFound(f"no response {shown(response_id)}")
    body = await service.store.response(tenant, response_id)
    return body if body is not None else await rebuilt_response(service, turn)


async def ended_response(service: Service, tenant: str, response_id: str) -> wire.Response | dict[str, object]:
    """A response that this server does not compute, once it has ended.

    Raises:
        ResponseElsewhere: another server computes it.
        ResponseNotFound: there is none.
    """
    found = await stored_response(service, tenant, response_id)
    if isinstance(found, wire.Response) and found.status == "in_progress":
        raise ResponseElsewhere
    return found


async def rebuilt_response(service: Service, turn: Turn) -> wire.Response:
    answer = None
    if turn.tip_hash is not None:
        answer = await stored_answer(service, turn, (await service.store.load_chain(turn.tenant, turn.tip_hash))[-1])
    return response_object(
        facts_stored(turn),
        turn.status,
        answer=answer,
        usage=turn.usage,
        receipt=turn.receipt,
        timings=turn.timings,
        error=turn.error,
        completed_at=turn.completed_at,
    )


async def stored_answer(service: Service, turn: Turn, message: Message) -> Answer:
    """A turn's answer, from its message; what was thought only where its ids can be read."""
    text = text_of(message.content)
    read = await service.hub.rereader.answer(turn, message.token_ids, text) if message.token_ids else None
    return read or Answer(text, tuple(calls_of(message.content)), 0)


async def told_answers(
    service: Service, tenant: str, answered: Sequence[tuple[Message, Turn]]
) -> dict[MessageHash, Answer]:
    """By their messages, the answers among these that may have said more than the message tells: thoughts, and where
    they stood."""
    found = {turn.id: (message, turn) for message, turn in answered if _may_have_thought(turn)}
    bodies = await service.store.responses(tenant, list(found)) if found else {}
    return {
        message.hash: answer_told(message, bodies[id]["output"])
        if id in bodies
        else await stored_answer(service, turn, message)
        for id, (message, turn) in found.items()
    }


async def kept_answers(service: Service, chain: Sequence[Message], turns: Sequence[Turn]) -> dict[MessageHash, Answer]:
    """By their messages, the answers of ``chain`` that none of a conversation's ``turns`` gave as they stand there, as
    behind a summary: what was thought is in their ids."""
    given = {turn.tip_hash for turn in turns}
    kept = [m for m in chain if m.role == "assistant" and m.token_ids and m.hash not in given]
    read = {message.hash: await service.hub.rereader.kept(message, turns) for message in kept}
    return {hash: answer for hash, answer in read.items() if answer and answer.reasoning}


def _may_have_thought(turn: Turn) -> bool:
    """Of a turn that a crash ended nothing was counted."""
    return turn.usage is None or "reasoning_tokens" in turn.usage


def answer_told(message: Message, output: Sequence[dict[str, Any]]) -> Answer:
    """A turn's answer from its message and its response's output."""
    kinds = [item["type"] for item in output]
    calls_before = kinds[: kinds.index("message")].count("function_call") if "message" in kinds else 0
    thoughts = [
        Reasoning(place, item["content"][0]["text"]) for place, item in enumerate(output) if item["type"] == "reasoning"
    ]
    return Answer(text_of(message.content), tuple(calls_of(message.content)), calls_before, tuple(thoughts))


async def delete_turn(service: Service, tenant: str, turn_id: str, kind: TurnKind) -> None:
    """Delete what is stored of a tenant's turn and of its request's other choices; those that run are ended first.

    Raises:
        ResponseNotFound: there is none of this kind.
    """
    live = service.hub.turns.live(tenant, turn_id)
    if live is not None and live.request.kind == kind:
        choices = live.request.params.n
    else:
        turn = await service.store.turn(tenant, turn_id)
        if turn.kind != kind:
            raise ResponseNotFound(f"no {CALLED[kind]} {shown(turn_id)}")
        choices = turn.request.get("n", 1)
    names = [choice_id(turn_id, index) for index in range(choices)]
    for name in names:
        await service.hub.end(tenant, name)
    service.keyed.forget(lambda _, turns: any(turn.id in names for turn in turns or ()))
    if live is not None and not live.request.stored:
        return
    for name in names[:0:-1]:  # the one that is named last: what is cut short here can be asked for again
        with suppress(ResponseNotFound):  # deleted before, by its own name
            await service.hub.deleting.turn(tenant, name)
    await service.hub.deleting.turn(tenant, turn_id)
