"""``/v1/admin/tenants``: what an operator sees of tenants, allows them and their keys while the server runs, and how
one is paused and erased."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, Literal

import msgspec
from aiohttp import web

from chatpager.errors import Forbidden, InvalidRequest, KeyNotFound, TenantBeingErased, TenantNotPaused, shown
from chatpager.server import wire_tenants as w
from chatpager.server.auditing import audited
from chatpager.server.input_items import check_text
from chatpager.server.logins import SENDER
from chatpager.server.reading import decode, known_fields
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service
from chatpager.sessions.to_the_end import to_the_end
from chatpager.store import Limits

CHANGING = web.AppKey("changing", asyncio.Lock)
"""Held while limits and pauses change."""
ERASING: web.AppKey[list[str]] = web.AppKey("erasing")
"""Tenants that are being erased; one stands there as often as that was asked for."""
MOST, MOST_WEIGHT = 1 << 53, 100
MOST_ROWS = 500
TENANT = re.compile(r"[!-~]{1,64}")


async def index(request: web.Request) -> web.Response:
    """By name, those with every word of ``search`` in it; ``MOST_ROWS`` of both kinds."""
    service = request.app[SERVICE]
    words = check_text(request.query.get("search", ""), "search").lower().split()
    await _forget_revoked(request)

    def found(name: str) -> bool:
        return all(word in name.lower() for word in words)

    rows = [row for row in await service.store.tenants.every() if found(row.tenant)]
    keys = sorted(name for kind, name in service.hub.quotas.limits if kind == "key" and found(name))
    running = _running(service)
    data = [_tenant(service, row.tenant, row.conversations, row.keys, running) for row in rows[:MOST_ROWS]]
    limited = [_key(service, name) for name in keys[:MOST_ROWS]]
    return json_response(w.Tenants(data=data, keys=limited, tenants_in_all=len(rows), keys_in_all=len(keys)))


async def _forget_revoked(request: web.Request) -> None:
    """What limited keys that are revoked, as other processes do it too."""
    service = request.app[SERVICE]
    async with request.app[CHANGING]:
        service.hub.quotas.forget_keys({key.id for key in await service.store.keys.every() if key.revoked_at is None})


def _running(service: Service) -> Counter[str]:
    return Counter(turn.request.tenant for turn in service.hub.turns.values())


def _tenant(service: Service, name: str, conversations: int, keys: int, running: Counter[str]) -> w.Tenant:
    quotas = service.hub.quotas
    return w.Tenant(
        id=name,
        paused_at=quotas.paused(name),
        conversations=conversations,
        keys=keys,
        weight=quotas.weight(name),
        running=running[name],
        own=_own(quotas.limits.get(("tenant", name))),
        **_allowed(service, "tenant", name),
    )


def _own(row: Limits | None) -> w.TenantLimits:
    return w.TenantLimits(**{name: getattr(row, name, None) for name in w.TenantLimits.__struct_fields__})


def _key(service: Service, id: str) -> w.LimitedKey:
    return w.LimitedKey(id=id, **_allowed(service, "key", id))


def _allowed(service: Service, kind: str, name: str) -> dict[str, Any]:
    quotas = service.hub.quotas
    account, now = quotas.account(kind, name), quotas.now()
    names = ("requests_per_minute", "tokens_per_minute", "max_conversations")
    left = {
        "requests_left": account.requests and int(account.requests.left(now)),
        "tokens_left": account.tokens and int(account.tokens.left(now)),
    }
    return {**dict(zip(names, astuple(quotas.allowed(kind, name)), strict=True)), **left}


async def limit(request: web.Request) -> web.Response:
    """What is not sent is what the settings say."""
    service, name = request.app[SERVICE], _named(request)
    found = _sent(await request.read(), "requests_per_minute", "tokens_per_minute", "max_conversations", "weight")

    def limited(old: Limits) -> Limits:
        return Limits(kind="tenant", name=name, paused_at=old.paused_at, **found)

    await _change(request, "tenant.limited", "tenant", name, limited)
    return json_response(_tenant(service, name, *await _counts(service, name), _running(service)))


async def limit_key(request: web.Request) -> web.Response:
    """``tenant`` in the address: whose the key has to be."""
    service, id = request.app[SERVICE], request.match_info["id"]
    found = _sent(await request.read(), "requests_per_minute", "tokens_per_minute")
    tenant = request.query.get("tenant")
    key = next((key for key in await service.store.keys.every() if key.id == id and key.revoked_at is None), None)
    if key is None or tenant not in (None, key.tenant):
        raise KeyNotFound(f"no key {shown(id)}" + (f" of tenant {shown(tenant)}" if tenant is not None else ""))
    await _change(request, "key.limited", "key", id, lambda old: Limits(kind="key", name=id, **found))
    return json_response(_key(service, id))


async def pause(request: web.Request) -> web.Response:
    """From now on it begins nothing, on open sockets too; what runs goes on to its end, and what it has is kept."""
    wall = request.app[SERVICE].hub.wall

    def paused(old: Limits) -> Limits:
        return msgspec.structs.replace(old, paused_at=wall() if old.paused_at is None else old.paused_at)

    return await _paused(request, "tenant.paused", paused)


async def resume(request: web.Request) -> web.Response:
    def resumed(old: Limits) -> Limits:
        if old.name in request.app[ERASING]:
            raise TenantBeingErased(f"tenant {shown(old.name)} is being erased: resume it once that has ended")
        return msgspec.structs.replace(old, paused_at=None)

    return await _paused(request, "tenant.resumed", resumed)


async def _paused(request: web.Request, action: str, change: Callable[[Limits], Limits]) -> web.Response:
    service, name = request.app[SERVICE], _named(request)
    await _change(request, action, "tenant", name, change)
    return json_response(_tenant(service, name, *await _counts(service, name), _running(service)))


async def erase(request: web.Request) -> web.Response:
    """All that a paused tenant said and was answered, and its keys. It stays paused, so that nobody comes in by its
    name who does not know what happened."""
    if request[SENDER].login is not None:
        raise Forbidden("a login is not enough for what nobody can bring back: send the key itself with this request")
    return json_response(await to_the_end(_erase(request, _named(request))))


async def _erase(request: web.Request, name: str) -> w.ErasedTenant:
    """Nobody resumes it meanwhile."""
    service, erasing = request.app[SERVICE], request.app[ERASING]

    def forget() -> None:
        service.answered.forget(lambda key, _: key.tenant == name)
        service.keyed.forget(lambda key, _: key.tenant == name)

    async with request.app[CHANGING]:
        if service.hub.quotas.paused(name) is None:
            raise TenantNotPaused(
                f"tenant {shown(name)} is not paused: pause it first, then nothing is begun meanwhile"
            )
        erasing.append(name)
    try:
        await audited(request, "tenant.erased", name)
        keys = await service.store.tenants.revoke_keys(name, now=service.hub.wall())
        await _forget_revoked(request)
        erased = await service.hub.erasing.tenant(name, forget)
    finally:
        erasing.remove(name)
    return w.ErasedTenant(id=name, conversations=erased.conversations, turns=erased.turns, keys=keys)


async def _change(
    request: web.Request, action: str, kind: Literal["tenant", "key"], name: str, change: Callable[[Limits], Limits]
) -> None:
    """Written down, stored, and only then in force, and all of that also where the client leaves. One change after the
    other: each begins from what the one before it left."""

    async def changed() -> None:
        service = request.app[SERVICE]
        async with request.app[CHANGING]:
            row = change(service.hub.quotas.limits.get((kind, name)) or Limits(kind=kind, name=name))
            await audited(request, action, name)
            await service.store.tenants.limit(row)
            service.hub.quotas.change(row)

    await to_the_end(changed())


async def _counts(service: Service, name: str) -> tuple[int, int]:
    row = next((row for row in await service.store.tenants.every() if row.tenant == name), None)
    return (row.conversations, row.keys) if row else (0, 0)


def _named(request: web.Request) -> str:
    name = request.match_info["tenant"]
    if not TENANT.fullmatch(name):
        raise InvalidRequest(f"{shown(name)} is no tenant's name", param="tenant")
    return name


def _sent(body: bytes, *names: str) -> dict[str, int | None]:
    sent = known_fields(decode(body or b"{}"), *names)
    for name, value in sent.items():
        least, most = 0 if name == "max_conversations" else 1, MOST_WEIGHT if name == "weight" else MOST
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise InvalidRequest(f"{name} is a whole number from {least} to {most}, or null", param=name)
    return sent
