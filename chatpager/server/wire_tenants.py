"""The objects of ``/v1/admin/tenants``."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)] | None


class TenantLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What differs from the settings; null: nothing does."""

    requests_per_minute: Count = None
    tokens_per_minute: Count = None
    max_conversations: Annotated[int, msgspec.Meta(ge=0)] | None = None
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that are in force, the settings' where there are no others, and what is left of this minute; null: any
    number."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_conversations: int | None
    requests_left: int | None
    tokens_left: int | None
    """Below 0 it is a debt."""


class Tenant(Allowance, frozen=True, kw_only=True):
    """``paused_at`` is in milliseconds since the epoch; ``keys`` are those that were not revoked."""

    object: str = "admin.tenant"
    id: str
    paused_at: int | None
    conversations: int
    keys: int
    running: int
    weight: int
    """Of its turns that wait so many are begun in each round."""
    own: TenantLimits


class LimitedKey(Allowance, frozen=True, kw_only=True):
    object: str = "admin.key"
    id: str


class Tenants(msgspec.Struct, frozen=True, kw_only=True):
    """``keys``: those that have limits of their own. ``_in_all``: also those that have no room here."""

    object: str = "admin.tenants"
    data: list[Tenant]
    keys: list[LimitedKey]
    tenants_in_all: int
    keys_in_all: int


class ErasedTenant(msgspec.Struct, frozen=True, kw_only=True):
    """``turns``: those without a conversation; ``keys`` that opened something until now."""

    object: str = "admin.tenant.erased"
    id: str
    conversations: int
    turns: int
    keys: int


class KeyLimits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    requests_per_minute: Count = None
    tokens_per_minute: Count = None
