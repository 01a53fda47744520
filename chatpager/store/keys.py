"""API keys: who may come in, for which tenant, and as what. Of a key only its SHA-256 is stored.

A key is 32 random bytes, which nobody can guess however fast they hash; so one round of SHA-256 hides it as well as the
slow hashes that passwords need would, and its digest can be an index. Where a row is found, the digests are compared
once more in constant time. Rows are never deleted: who revokes the last key closes the door and does not open it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import get_args

from msgspec import structs
from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import ConfigError, KeyNotFound, shown
from chatpager.store import auditing
from chatpager.store.database import NUL, Database
from chatpager.store.records import ApiKey, AuditEntry, Role
from chatpager.store.tables import api_keys, limits

MARK = "cp_"
"""What a key begins with, so that whoever finds one in a file knows what it is."""
SHOWN = len(MARK) + 5
"""Characters of a key that a list shows: 30 of its 256 bits."""
MAX_NAME = 100
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,63}")


def digest_of(key: str) -> bytes:
    """What is stored of a key; of any text, as it came in a header."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def new_key(tenant: str, name: str, role: str, now: int, *, expires_at: int | None = None) -> tuple[ApiKey, str]:
    """A row to store, and the key itself, which is nowhere else.

    Raises:
        ConfigError: a tenant, name or role that cannot be one.
    """
    if not _TENANT.fullmatch(tenant):
        raise ConfigError("tenant", "is 1 to 64 letters, digits and . _ - @ : +, a letter or digit first", value=tenant)
    if len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError("name", f"is one line of at most {MAX_NAME} characters", value=name)
    known = get_args(Role)
    if role not in known:
        raise ConfigError("role", f"is {' or '.join(known)}", value=role)
    key = MARK + secrets.token_urlsafe(32)
    return (
        ApiKey(
            id="key_" + secrets.token_hex(8),
            tenant=tenant,
            name=name,
            role=role,  # type: ignore[arg-type]
            digest=digest_of(key),
            prefix=key[:SHOWN],
            created_at=now,
            revoked_at=None,
            expires_at=expires_at,
        ),
        key,
    )


class Keys:
    """Every tenant's. Each method is one transaction, and raises what ``Store``'s do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key: ApiKey) -> None:
        await self._database.writing("create_key", lambda c: _create(c, key))

    async def every(self) -> list[ApiKey]:
        """Revoked ones too, the oldest first."""
        return await self._database.reading(_every)

    async def any_stored(self) -> bool:
        """Whether one ever was."""
        return await self._database.reading(_any_stored)

    async def find(self, digest: bytes) -> ApiKey | None:
        """The key with this SHA-256, which may be revoked."""
        return await self._database.reading(lambda c: _find(c, digest))

    async def revoke(self, id: str, *, now: int) -> ApiKey:
        """Raises KeyNotFound."""
        return await self._database.writing("revoke_key", lambda c: revoke(c, id, now))


async def _create(c: AsyncConnection, key: ApiKey) -> None:
    await c.execute(insert(api_keys).values({column.name: getattr(key, column.name) for column in api_keys.columns}))
    await auditing.add(c, _by_the_operator(key, "key.created", key.created_at))


def _by_the_operator(key: ApiKey, action: str, now: int) -> AuditEntry:
    """Keys are made and ended in the database itself, by who has it."""
    return AuditEntry(at=now, key="operator", tenant=key.tenant, action=action, target=key.id, address="")


async def _every(c: AsyncConnection) -> list[ApiKey]:
    rows = (await c.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))).all()
    return [ApiKey(**row._mapping) for row in rows]


async def _any_stored(c: AsyncConnection) -> bool:
    return bool((await c.execute(select(exists().select_from(api_keys)))).scalar())


async def _find(c: AsyncConnection, digest: bytes) -> ApiKey | None:
    row = (await c.execute(select(api_keys).where(api_keys.c.digest == digest))).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    return ApiKey(**row._mapping)


async def hold_open(c: AsyncConnection, id: str) -> None:
    """Nobody revokes it before the transaction ends. Raises KeyNotFound: there is none, or somebody has."""
    row = (await c.execute(select(api_keys.c.revoked_at).where(api_keys.c.id == id).with_for_update())).one_or_none()
    if row is None or row.revoked_at is not None:
        raise KeyNotFound(f"no key {shown(id)}" + (" any more: it is revoked" if row else ""))


async def revoke(c: AsyncConnection, id: str, now: int) -> ApiKey:
    """And forget what limited it. One that was revoked before stays revoked since then."""
    k = api_keys.c
    row = None if NUL in id else (await c.execute(select(api_keys).where(k.id == id).with_for_update())).one_or_none()
    if row is None:
        raise KeyNotFound(f"no key {shown(id)}")
    key = ApiKey(**row._mapping)
    if key.revoked_at is not None:
        return key
    await c.execute(update(api_keys).where(k.id == id).values(revoked_at=now))
    await c.execute(delete(limits).where(limits.c.kind == "key", limits.c.name == id))
    await auditing.add(c, _by_the_operator(key, "key.revoked", now))
    return structs.replace(key, revoked_at=now)
