"""What of a conversation is in the cache, keeping it there, and forking it."""

from __future__ import annotations

import secrets
from typing import Any, get_args

import msgspec
from aiohttp import web

from chatpager.engine.heads import TTL_CAPS, LeaseEvent, Strength
from chatpager.engine.questions import EventsWanted
from chatpager.errors import InvalidRequest, NothingCached, ResponseNotFound, SessionBusy, shown
from chatpager.server import wire, wire_conversations
from chatpager.server.auditing import audited
from chatpager.server.input_items import Json, check_text
from chatpager.server.keyring import CALLER, tenant_of
from chatpager.server.once import answered_once
from chatpager.server.reading import decoded, known_fields
from chatpager.server.routes_conversations import conversation_object, page_limit
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service
from chatpager.sessions.heads import names_of, owner_of
from chatpager.sessions.keeping import KEPT_AT_MOST
from chatpager.sessions.revising import Role
from chatpager.store import MessageHash, Session, Turn

MAX_EVENTS = 10_000
LIMITS = {Strength.SOFT: TTL_CAPS[Strength.SOFT], Strength.HARD: KEPT_AT_MOST}
"""Of a pin's ``ttl``, in seconds."""
MAX_TOOL_NAME = 64
"""OpenAI's limit."""
NOTHING = LeaseEvent(owner="", change="clipped", strength=Strength.SOFT, tokens=0, seconds_left=0.0)


async def cache(request: web.Request) -> web.Response:
    service, session = await _known(request)
    found = await service.hub.keeper.cache_of(_owner(session))
    facts = msgspec.to_builtins(found) if found else {}
    return json_response(wire_conversations.ConversationCache(id=session.id, **facts))


async def top(request: web.Request) -> web.Response:
    """Who has most of the device's cache: conversations, and responses that belong to none; the caller's own, or for an
    admin every tenant's."""
    service, caller = request.app[SERVICE], request[CALLER]
    whose = None if caller.role == "admin" else caller.tenant
    rows = []
    for owner, found in await service.hub.keeper.largest(whose, page_limit(request, 20)):
        tenant, name = names_of(owner)
        rows.append(wire_conversations.CacheHolder(id=name, tenant=tenant, **msgspec.to_builtins(found)))
    return json_response({"object": "list", "data": rows})


async def explain(request: web.Request) -> web.Response:
    """Where the prompts of two responses part (of a conversation: of its last one)."""
    service = request.app[SERVICE]
    names = [check_text(request.query.get(name, ""), name) for name in ("first", "second")]
    if not all(names):
        raise InvalidRequest("name two responses or conversations: ?first=resp_...&second=resp_...", param="first")
    found = await service.hub.comparing.explain(tenant_of(request), names[0], names[1], service.hub.block_size)
    return json_response({"object": "cache.explanation", **msgspec.to_builtins(found)})


async def events(request: web.Request) -> web.Response:
    """What came into the cache and left it after the event ``after``; without it, what there is now."""
    service = request.app[SERVICE]
    after, limit = _number(request, "after", None), _number(request, "limit", 1000)
    if limit is None or not 1 <= limit <= MAX_EVENTS:
        raise InvalidRequest(f"limit is between 1 and {MAX_EVENTS}", param="limit")
    asked, replica = EventsWanted(after, limit), request.query.get("replica")
    engine = service.hub.engine
    found = await (engine.ask(asked) if replica is None else engine.ask_one(replica, asked))
    rows = [
        wire_conversations.CacheEvent(e.type, e.number, e.block.hex(), e.parent.hex() if e.parent else None)
        for e in found.events
    ]
    return json_response(
        wire_conversations.CacheEvents(
            data=rows, epoch=found.epoch, last_sequence_number=found.last, missed=found.missed
        )
    )


def _number(request: web.Request, name: str, default: int | None) -> int | None:
    raw = request.query.get(name)
    if raw is None:
        return default
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 15):
        raise InvalidRequest(f"{name} is a whole number", param=name)
    return int(raw)


async def pin(request: web.Request) -> web.Response:
    """Keep the conversation's prefix, until ``ttl`` seconds from now or for as long as somebody is connected to it: no
    longer, whatever was asked for before."""
    service, session = await _known(request)
    strength, ttl, tokens = pin_wish(await decoded(await request.read() or b"{}"))
    await audited(request, "conversation.pinned", session.id)
    await service.hub.prefetcher.bring(session.tenant, session.id)
    event = await service.hub.keeper.pin(_owner(session), strength, ttl, tokens, replaces=True)
    if event is None or not event.tokens:
        raise NothingCached(await _why_not(service, session))
    return json_response(pin_object(session.id, event))


async def _why_not(service: Service, session: Session) -> str:
    """Why a conversation cannot be pinned, and what helps."""
    if not service.hub.caching:
        return "prefix caching is off on this server (enable_prefix_caching)"
    found = await service.hub.keeper.cache_of(_owner(session))
    if found is None or not found.tokens:
        return "this conversation has no turn yet; pin it after its next one"
    if not found.device_tokens and found.host_tokens + found.disk_tokens:
        return "this conversation is in host memory or on disk; its next turn brings it to the device, pin it then"
    if not found.device_tokens:
        return "nothing of this conversation is in the cache any more; pin it after its next turn"
    return (
        "no block can be leased now: the budget is lease_share of the pool, less the room that one request of "
        "max_model_len needs; serve with more blocks or a smaller context, or unpin another conversation"
    )


async def prefetch(request: web.Request) -> web.Response:
    """Somebody is about to go on with the conversation: what is kept of it below the device comes back now."""
    service, session = await _known(request)
    tokens = await service.hub.prefetcher.bring(session.tenant, session.id)
    return json_response({"object": "conversation.prefetch", "id": session.id, "tokens": tokens})


async def hint(request: web.Request) -> web.Response:
    """The conversation goes on in ``eta`` seconds, or when ``tool`` is done: what is kept softly until then. A hint is
    answered, never refused for what is not in the cache."""
    service, session = await _known(request)
    tool, eta = _expected(await decoded(await request.read() or b"{}"))
    event = await service.hub.tool_waits.hint(session.tenant, session.id, tool, eta)
    answer = pin_object(session.id, event or NOTHING) | {"object": "conversation.hint"}
    return json_response(answer if event else answer | {"status": "missing"})


async def unpin(request: web.Request) -> web.Response:
    service, session = await _known(request)
    await audited(request, "conversation.unpinned", session.id)
    service.hub.keeper.unpin(_owner(session))
    return json_response(wire.Deleted(id=session.id, object="conversation.pin.deleted"))


async def fork(request: web.Request) -> web.Response:
    return await answered_once(request, _fork)


async def _fork(request: web.Request, body: Json) -> wire_conversations.Conversation:
    """A new conversation that begins with this one's messages, up to the answer of ``at`` or all of them. Nothing is
    copied: messages and KV blocks are shared until the two go different ways."""
    service, session = await _known(request)
    at = known_fields(body, "at").get("at")
    if at is not None and not isinstance(at, str):
        raise InvalidRequest("at is the id of a response", param="at")
    turn = await _turn_at(service, session, at) if at else None
    tip = (turn.tip_hash or turn.input_tip) if turn else None
    inside = tip is None or await _contains(service, session, tip)  # what it has left behind is not in its head
    new_id, now = "conv_" + secrets.token_hex(16), service.hub.wall()
    child = await service.store.fork_session(
        session.tenant,
        session.id,
        new_id=new_id,
        at=tip,
        now=now,
        most=service.config.max_forks,
        most_of_tenant=service.hub.quotas.allowed("tenant", session.tenant).conversations,
    )
    usage = (turn.usage or {}) if turn else None
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0) - 1 if usage is not None else None
    if inside:
        service.hub.keeper.forked(_owner(session), _owner(child), tokens)
    return conversation_object(service, child)


async def rewind(request: web.Request) -> web.Response:
    """The conversation ends with the answer ``to`` again."""
    service, session = await _known(request)
    to = known_fields(await decoded(await request.read() or b"{}"), "to").get("to")
    if not isinstance(to, str):
        raise InvalidRequest("to is the id of a response", param="to")
    turn = await _turn_at(service, session, to)
    changed = await service.hub.revising.rewind(session.tenant, session.id, turn)
    return json_response(conversation_object(service, changed))


async def compact(request: web.Request) -> web.Response:
    return await answered_once(request, _compact)


async def _compact(request: web.Request, asked: Json) -> wire_conversations.Conversation:
    """A summary stands in place of all but the last ``keep`` answers and what asked for them."""
    service, session = await _known(request)
    body = known_fields(asked, "summary", "role", "keep")
    summary, role, keep = body.get("summary"), body.get("role", "user"), body.get("keep", 1)
    if not isinstance(summary, str):
        raise InvalidRequest("summary is a text", param="summary")
    if not check_text(summary, "summary").strip():
        raise InvalidRequest("summary: it is empty; say what is to stand in place of the older part", param="summary")
    if role not in get_args(Role):
        raise InvalidRequest(f"role is one of {', '.join(get_args(Role))}", param="role")
    if type(keep) is not int or keep < 0:
        raise InvalidRequest("keep is a whole number of answers", param="keep")
    changed = await service.hub.revising.compact(session.tenant, session.id, summary, role, keep)
    return conversation_object(service, changed)


async def _known(request: web.Request) -> tuple[Service, Session]:
    """The conversation that the path names. Raises ConversationNotFound."""
    service = request.app[SERVICE]
    return service, await service.store.session(tenant_of(request), request.match_info["id"])


def _owner(session: Session) -> str:
    return owner_of(session.tenant, session.id)


async def _turn_at(service: Service, session: Session, response_id: str) -> Turn:
    """A turn that the conversation holds: its own, or one it has of the conversation that it was forked from."""
    turn = await service.store.turn(session.tenant, response_id)
    if turn.session_id != session.id and not await _contains(service, session, turn.tip_hash or turn.input_tip):
        raise ResponseNotFound(f"the conversation has no response {shown(response_id)}")
    if turn.status == "in_progress":
        raise SessionBusy(f"response {shown(response_id)} is still running; wait for its end")
    return turn


async def _contains(service: Service, session: Session, tip: MessageHash | None) -> bool:
    chain = await service.store.load_chain(session.tenant, session.tip_hash)
    return any(message.hash == tip for message in chain)


def pin_wish(body: Json) -> tuple[Strength, float, int | None]:
    known_fields(body, "ttl", "tokens", "strength")
    try:
        strength = Strength(body.get("strength", Strength.HARD))
    except ValueError:
        raise InvalidRequest("strength is hard or soft", param="strength") from None
    ttl, tokens = body.get("ttl", TTL_CAPS[strength]), body.get("tokens")
    if type(ttl) not in (int, float) or not 0 < ttl <= LIMITS[strength]:
        limit = f"{LIMITS[strength]:.0f}, of a {strength} pin"
        raise InvalidRequest(f"ttl is a number of seconds above 0, and at most {limit}", param="ttl")
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise InvalidRequest("tokens is a whole number above 0", param="tokens")
    return strength, ttl, tokens


def _expected(body: Json) -> tuple[str | None, float | None]:
    known_fields(body, "tool", "eta")
    tool, eta = body.get("tool"), body.get("eta")
    if tool is None and eta is None:
        raise InvalidRequest("say what the conversation waits for: a tool, or eta in seconds", param="tool")
    if tool is not None and not (isinstance(tool, str) and 0 < len(tool) <= MAX_TOOL_NAME and tool.isprintable()):
        raise InvalidRequest(f"tool is a name of at most {MAX_TOOL_NAME} characters that can be shown", param="tool")
    if eta is not None and (type(eta) not in (int, float) or not eta > 0):
        raise InvalidRequest("eta is a number of seconds above 0", param="eta")
    return tool, eta


def pin_object(session_id: str, event: LeaseEvent) -> dict[str, Any]:
    """What was granted: at most ``ttl`` and ``tokens`` as asked for, fewer where caps and budget say so."""
    return {
        "object": "conversation.pin",
        "id": session_id,
        **lease_granted(event),
    }


def lease_granted(event: LeaseEvent) -> dict[str, Any]:
    return {
        "status": event.change,
        "strength": event.strength,
        "tokens": event.tokens,
        "expires_in": round(event.seconds_left, 3),
        "reason": event.reason,
    }
