"""What admins do is written down before it is done: what cannot be written down is not done."""

from __future__ import annotations

from aiohttp import web

from chatpager.server.keyring import CALLER
from chatpager.server.service import SERVICE
from chatpager.store import AuditEntry

MAX_TARGET = 200
"""Characters of what a client names; only printable ones are kept."""


async def audited(request: web.Request, action: str, target: str) -> None:
    """Whoever may do it, only what an admin does is written down; ``target`` is an id or a label, and no text of
    anybody's. Raises StoreError: nothing was written."""
    caller, service = request[CALLER], request.app[SERVICE]
    if caller.role != "admin":
        return
    shown = "".join(character for character in target[:MAX_TARGET] if character.isprintable())
    await service.store.audit(
        AuditEntry(
            at=service.hub.wall(),
            key=caller.key,
            tenant=caller.tenant,
            action=action,
            target=shown,
            address=request.remote or "",
        )
    )
