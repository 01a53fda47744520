"""``/v1/conversations``: a session is a conversation; its items are its messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, NamedTuple

from aiohttp import web

from chatpager.errors import (
    ConversationChanged,
    InvalidRequest,
    ItemNotFound,
    ResponseNotFound,
    SessionBusy,
    StoreError,
    shown,
)
from chatpager.server import wire, wire_conversations
from chatpager.server.auditing import audited
from chatpager.server.cutting import without
from chatpager.server.encode_conversation import live_items, message_items, said_items, unanswered_items
from chatpager.server.input_items import Json, check_text, input_messages
from chatpager.server.keyring import tenant_of
from chatpager.server.markdown import as_markdown
from chatpager.server.once import answered_once
from chatpager.server.reading import MUCH, decoded, known_fields, made_of
from chatpager.server.requests import check_metadata
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service, kept_answers, told_answers
from chatpager.sessions.to_the_end import to_the_end
from chatpager.store import Message, MessageHash, NewMessage, Session, Store, Turn

MAX_PAGE = 100
MAX_TITLE = 200


async def create(request: web.Request) -> web.Response:
    return await answered_once(request, _create)


async def _create(request: web.Request, body: Json) -> wire_conversations.Conversation:
    service, tenant = request.app[SERVICE], tenant_of(request)
    metadata, title = _metadata(body, "metadata", "items")
    messages = await made_of(body, _said)
    now = service.hub.wall()
    session = await service.store.create_session(
        tenant,
        id="conv_" + secrets.token_hex(16),
        title=title or "",
        metadata=metadata,
        said=messages,
        now=now,
        most=service.hub.quotas.allowed("tenant", tenant).conversations,
    )
    return conversation_object(service, session)


async def index(request: web.Request) -> web.Response:
    service, tenant = request.app[SERVICE], tenant_of(request)
    after = request.query.get("after")
    cursor = (await service.store.session(tenant, after)).cursor if after else None
    words = check_text(request.query.get("search", ""), "search") or None
    rows, more = await service.store.list_sessions(tenant, limit=page_limit(request, 50), after=cursor, search=words)
    return json_response(_page([conversation_object(service, row) for row in rows], more))


async def retrieve(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    session = await service.store.session(tenant_of(request), request.match_info["id"])
    return json_response(conversation_object(service, session))


async def update(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body, tenant, session_id = await decoded(await request.read()), tenant_of(request), request.match_info["id"]
    metadata, title = _metadata(body, "metadata", "expected_metadata")
    change: dict[str, Any] = {"metadata": metadata} if body.get("metadata") is not None else {}
    if title is not None:
        change["title"] = title
    if (expected := body.get("expected_metadata")) is not None:
        if not isinstance(expected, dict):
            raise InvalidRequest("expected_metadata is an object", param="expected_metadata")
        change["expected"] = known = await service.store.session(tenant, session_id)
        if expected != told_metadata(known):
            raise ConversationChanged
    session = await service.store.update_session(tenant, session_id, **change)
    return json_response(conversation_object(service, session))


async def delete(request: web.Request) -> web.Response:
    """A turn of it that runs or begins meanwhile is ended and deleted with it: once this is answered nothing is left,
    and nothing is written afterwards. A client that leaves does not stop it halfway. With ``idle_ms`` it is deleted
    only where no turn of it began in so many milliseconds."""
    service, tenant, session_id = request.app[SERVICE], tenant_of(request), request.match_info["id"]
    unused_since = None if (idle := _idle(request)) is None else service.hub.wall() - idle
    await audited(request, "conversation.deleted", session_id)

    def forget() -> None:
        service.answered.forget(
            lambda name, text: name.tenant == tenant and (session_id in name.path or session_id in (text or ""))
        )

    await service.hub.deleting.session(tenant, session_id, forget, unused_since)
    return json_response(wire.Deleted(id=session_id, object="conversation.deleted"))


# -- items ------------------------------------------------------------------------------------------------------------


async def add_items(request: web.Request) -> web.Response:
    return await answered_once(request, _add_items)


async def _add_items(request: web.Request, body: Json) -> wire.Page:
    service = request.app[SERVICE]
    messages = await made_of(known_fields(body, "items"), _said)
    if not messages:
        raise InvalidRequest("there are no items", param="items")
    tenant, session_id = tenant_of(request), request.match_info["id"]
    hashes = await service.hub.revising.append(tenant, session_id, messages)
    service.hub.prefetcher.soon(tenant, session_id)  # a tool's result, most likely: its answer is asked for next
    added = zip(hashes, messages, strict=True)  # a store that cannot be read now must not have it sent again
    return _page([item for hash, message in added for item in said_items(hash, message)], False)


async def items(request: web.Request) -> web.Response:
    found = await _all_items(request.app[SERVICE], tenant_of(request), request.match_info["id"])
    return json_response(_paged(request, found))


async def export(request: web.Request) -> web.Response:
    """All of a conversation, as JSON that can be read in again (``items``), or as Markdown for people."""
    service, tenant = request.app[SERVICE], tenant_of(request)
    form = request.query.get("format", "json")
    session = await service.store.session(tenant, request.match_info["id"])
    found = await _all_items(service, tenant, session.id)
    file = {"Content-Disposition": f'attachment; filename="{session.id}.{form}"'}
    conversation = conversation_object(service, session)

    def written() -> bytes:
        if form == "md":
            return as_markdown(session.title, found).encode()
        items = wire.each_encoded(found)
        return wire.encoded({"object": "conversation.export", "conversation": conversation, "items": items})

    body = await asyncio.to_thread(written) if len(found) > MUCH else written()
    kind = "text/markdown" if form == "md" else "application/json"
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=file)


async def input_items(request: web.Request) -> web.Response:
    """What a response was asked: its own input, without what came before it."""
    store, tenant = request.app[SERVICE].store, tenant_of(request)
    turn = await store.turn(tenant, request.match_info["id"])
    if turn.kind != "response":
        raise ResponseNotFound(f"no response {shown(turn.id)}")
    said = await said_in(store, turn, turn.input_tip)
    return json_response(_paged(request, [item for message in said for item in message_items(message)]))


async def said_in(store: Store, turn: Turn, tip: MessageHash) -> list[Message]:
    """The messages up to ``tip`` that came with the turn: its own input, and its answer where that is the tip."""
    chain = await store.load_chain(turn.tenant, tip)
    places = {message.hash: place for place, message in enumerate(chain, 1)}
    before = places.get(turn.parent_hash, 0) if turn.parent_hash else 0
    if sent := turn.request.get("sent_messages"):  # the whole conversation, of which the beginning was stored before
        before = places[turn.input_tip] - sent
    return chain[before:]


def _paged(request: web.Request, found: list[wire.AnyItem]) -> wire.Page:
    """The page that the query asks for of ``found``, oldest first."""
    after, limit, order = request.query.get("after"), page_limit(request, 20), request.query.get("order", "desc")
    if order == "desc":
        found.reverse()
    if after is not None:
        place = next((i for i, item in enumerate(found) if item.id == after), None)
        if place is None:
            raise InvalidRequest(f"there is no item {shown(after)}", param="after")
        found = found[place + 1 :]
    return _page(found[:limit], len(found) > limit)


async def item(request: web.Request) -> web.Response:
    service, wanted = request.app[SERVICE], request.match_info["item"]
    items = await _all_items(service, tenant_of(request), request.match_info["id"])
    found = next((i for i in items if i.id == wanted), None)
    if found is None:
        raise ItemNotFound(f"the conversation has no item {shown(wanted)}")
    return json_response(found)


async def delete_item(request: web.Request) -> web.Response:
    """The conversation goes on without an item; of a message that has others it is the others. What stands behind it
    stays as it was said, and is computed anew with the next turn."""
    service, wanted = request.app[SERVICE], request.match_info["item"]
    tenant = tenant_of(request)
    told = await _told(service, tenant, request.match_info["id"])
    place, found = next(((place, item) for place, item in told.items if item.id == wanted), (None, None))
    if place is None or found is None:
        raise ItemNotFound(f"the conversation has no item {shown(wanted)}")
    if place == len(told.chain):
        raise SessionBusy("the answer is still running; cancel it, or wait for its end")
    left = without(told.chain[place], found)
    here = f"/{told.session.id}/items"  # nothing else that is kept of a conversation tells its items

    async def change() -> Session:
        changed = await service.hub.revising.put(tenant, told.session, told.chain, place, [left] if left else [])
        service.answered.forget(lambda name, answer: name.path.endswith(here) and _tells(answer or "", found))
        return changed

    return json_response(conversation_object(service, await to_the_end(change())))


def _tells(answer: str, item: wire.AnyItem) -> bool:
    """Whether a kept answer holds what the item says: its id is another one since something before it was changed."""
    match item:
        case wire.FunctionCallItem():
            said = [item.arguments]
        case wire.FunctionOutputItem():
            said = [item.output]
        case _:
            said = [part.text for part in item.content]
    return any(text and wire.encode(text) in answer for text in said)


class _Told(NamedTuple):
    """A conversation's items, each with the place of its message in the chain."""

    session: Session
    chain: list[Message]
    items: list[tuple[int, wire.AnyItem]]


async def _all_items(service: Service, tenant: str, session_id: str) -> list[wire.AnyItem]:
    return [item for _, item in (await _told(service, tenant, session_id)).items]


async def _told(service: Service, tenant: str, session_id: str) -> _Told:
    """Every message, thought and call as an item, oldest first; a running answer as far as it is, behind the chain."""
    store = service.store
    # First: a turn that ends while the store is read is in what was read last, or here.
    live = service.hub.turns.of_session(tenant, session_id)
    session, turns = await store.session(tenant, session_id), await store.turns_of(tenant, session_id)
    with suppress(StoreError):  # what is stored can be read, even if nothing can be written
        if await service.hub.orphans.end_if_any(turns):
            session, turns = await store.session(tenant, session_id), await store.turns_of(tenant, session_id)
    chain = await store.load_chain(tenant, session.tip_hash)
    answered = {turn.tip_hash: turn for turn in turns if turn.tip_hash}
    told = await told_answers(service, tenant, [(m, answered[m.hash]) for m in chain if m.hash in answered])
    told |= await kept_answers(service, chain, turns)
    silent = _silent(chain, turns)

    def items() -> list[tuple[int, wire.AnyItem]]:
        return [
            (place, item)
            for place, m in enumerate(chain)
            for item in (
                unanswered_items(m, silent[m.hash])
                if m.hash in silent
                else message_items(m, answered.get(m.hash), told.get(m.hash))
            )
        ]

    found = await asyncio.to_thread(items) if len(chain) > MUCH else items()
    if live is not None and live.request.generate and (not chain or chain[-1].hash == live.input_tip):
        found += [(len(chain), item) for item in live_items(live)]
    return _Told(session, chain, found)


def _silent(chain: Sequence[Message], turns: Sequence[Turn]) -> dict[MessageHash, Turn]:
    """The turns that ended before they had said anything, by what was said to them and has no answer."""
    latest = {turn.input_tip: turn for turn in turns}
    roles = [message.role for message in chain]
    pairs = zip_longest(roles, roles[1:])
    asked = (latest.get(m.hash) for m, pair in zip(chain, pairs, strict=True) if "assistant" not in pair)
    silent = (turn for turn in asked if turn and turn.tip_hash is None)
    return {turn.input_tip: turn for turn in silent if turn.status not in ("in_progress", "completed")}


# -- parts ------------------------------------------------------------------------------------------------------------


def conversation_object(service: Service, session: Session) -> wire_conversations.Conversation:
    live = service.hub.turns.of_session(session.tenant, session.id)
    return wire_conversations.Conversation(
        id=session.id,
        created_at=session.created_at // 1000,
        metadata=told_metadata(session),
        chatpager={
            "title": session.title,
            "updated_at": session.updated_at // 1000,
            "forked_from": session.forked_from,
            "active_response_id": live.id if live else None,
        },
    )


def told_metadata(session: Session) -> dict[str, Any]:
    return {**session.metadata, **({"title": session.title} if session.title else {})}


def _metadata(body: Json, *fields: str) -> tuple[dict[str, Any], str | None]:
    """The metadata of a body with these ``fields``, and the title that clients send in it; None when they send none."""
    if "title" in body:
        raise InvalidRequest("title: a conversation's title is metadata.title", param="title")
    raw = known_fields(body, *fields).get("metadata")
    if raw is not None and not isinstance(raw, dict):
        raise InvalidRequest("metadata is an object", param="metadata")
    metadata = check_metadata(raw)
    title = metadata.pop("title", None)
    if title is not None and len(title) > MAX_TITLE:
        raise InvalidRequest(f"a title has at most {MAX_TITLE} characters", param="metadata.title")
    return metadata, title


def _said(body: Json) -> list[NewMessage]:
    """Raises InvalidRequest."""
    return input_messages(_items(body), "items")


def _items(body: Json) -> list[Json] | None:
    value = body.get("items")
    if value is not None and not (isinstance(value, list) and all(isinstance(i, dict) for i in value)):
        raise InvalidRequest("items is a list of objects", param="items")
    return value


def page_limit(request: web.Request, default: int) -> int:
    raw = request.query.get("limit", str(default))
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 3 and 1 <= int(raw) <= MAX_PAGE):
        raise InvalidRequest(f"limit is between 1 and {MAX_PAGE}", param="limit")
    return int(raw)


def _idle(request: web.Request) -> int | None:
    raw = request.query.get("idle_ms")
    if raw is None:
        return None
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 9):
        raise InvalidRequest("idle_ms is a whole number of milliseconds", param="idle_ms")
    return int(raw)


def _page(data: Sequence[Any], more: bool) -> wire.Page:
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return wire.Page(data=list(data), first_id=first, last_id=last, has_more=more)
