"""What admins do is written down before it is done: what cannot be written down is not done."""

from __future__ import annotations

from aiohttp import web

from chatpager.server.keyring import ANYBODY, CALLER
from chatpager.server.service import SERVICE
from chatpager.store import AuditEntry

MAX_TARGET = 200
"""Characters of what a client names; only printable ones are kept."""


async def audited(request: web.Request, action: str, target: str) -> None:
    """Whoever may do it, only what an admin's key does is written down: where there are no keys an entry would name
    nobody, and everybody could add to the audit without end. Raises StoreError: nothing was written."""
    caller = request[CALLER]
    if caller.role == "admin" and caller is not ANYBODY:
        await write_down(request, action, target)


async def write_down(request: web.Request, action: str, target: str) -> None:
    """``target`` is an id or a label, and no text of anybody's. Raises StoreError: nothing was written."""
    caller, service = request[CALLER], request.app[SERVICE]
    shown = "".join(character for character in target[:MAX_TARGET] if character.isprintable())
    await service.store.audit.add(
        AuditEntry(
            at=service.hub.wall(),
            key=caller.key,
            tenant=caller.tenant,
            action=action,
            target=shown,
            address=request.remote or "",
        )
    )
