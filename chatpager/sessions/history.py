"""What a turn goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatpager.errors import (
    ConversationNotFound,
    InvalidRequest,
    PreviousResponseNotFound,
    ResponseNotFound,
    SessionBusy,
    shown,
)
from chatpager.sessions.answers import calls_of
from chatpager.sessions.orphans import Orphans
from chatpager.sessions.turn_request import TurnRequest
from chatpager.store import Message, MessageHash, NewMessage, Store


async def history_of(
    request: TurnRequest, store: Store, orphans: Orphans
) -> tuple[list[Message], Sequence[NewMessage]]:
    """What is stored of the conversation, and what the request adds.

    Raises:
        ConversationNotFound, PreviousResponseNotFound: what the request names is unknown.
        SessionBusy: it names a response that still runs.
        InvalidRequest: it has the result of a call that is not there.
    """
    tenant = request.tenant
    if request.whole:
        stored = await store.match_content(tenant, request.messages)
        return stored, request.messages[len(stored) :]
    history: list[Message] = []
    if request.session_id is not None:
        history = await _of_session(tenant, request.session_id, store)
    elif request.previous_turn_id is not None:
        history = await store.load_chain(tenant, await _tip_of(tenant, request.previous_turn_id, store, orphans))
    check_called(request.results, history)
    return history, request.messages


def check_called(results: Mapping[str, str], history: Sequence[Message]) -> None:
    """``results`` as a ``TurnRequest`` has them. Raises InvalidRequest: a call is not in the history."""
    if results:
        called = {call.id for message in history for call in calls_of(message.content)}
        for call_id, place in results.items():
            if call_id not in called:
                raise not_called(call_id, place)


def not_called(call_id: str, place: str) -> InvalidRequest:
    """Of the field ``place``, which names a call that there is none of before it."""
    problem = f"no call {shown(call_id)} before this result; send it with the answer that called"
    return InvalidRequest(f"{place}: {problem}", param=place)


async def _of_session(tenant: str, session_id: str, store: Store) -> list[Message]:
    try:
        return (await store.conversation(tenant, session_id))[1]
    except ConversationNotFound as error:
        raise ConversationNotFound(error.message, param="conversation") from error


async def _tip_of(tenant: str, turn_id: str, store: Store, orphans: Orphans) -> MessageHash:
    try:
        turn = await store.turn(tenant, turn_id)
        if turn.kind != "response":
            raise ResponseNotFound(turn_id)
        if await orphans.end_if_any([turn]):
            turn = await store.turn(tenant, turn_id)
    except ResponseNotFound as error:
        message = f"no response {shown(turn_id)}; send the whole input without previous_response_id"
        raise PreviousResponseNotFound(message, param="previous_response_id") from error
    if turn.status == "in_progress":
        raise SessionBusy(f"response {shown(turn_id)} is still running; follow it to its end first")
    return turn.tip_hash or turn.input_tip
