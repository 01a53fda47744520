"""Bodies and answers that the API description tells of and that the routes read and write field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from chatpager.server.wire import Model
from chatpager.server.wire_conversations import CacheHolder, Prefix
from chatpager.sessions.comparing import Explanation
from chatpager.sessions.revising import Role

Above0 = Annotated[float, msgspec.Meta(gt=0)]
Json = dict[str, Any]


class ConversationCreate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``metadata.title`` is what it is called."""

    metadata: dict[str, str] | None = None
    items: list[Json] | None = None


class ConversationUpdate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    metadata: dict[str, str] | None = None
    expected_metadata: dict[str, str] | None = None


class ItemsCreate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    items: list[Json]


class Pin(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    ttl: Above0 | None = None
    tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    strength: Literal["hard", "soft"] = "hard"


class Hint(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One of them, or both."""

    tool: str | None = None
    eta: Above0 | None = None


class Fork(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    at: str | None = None


class Rewind(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    to: str


class Compact(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    summary: str
    role: Role = "user"
    keep: Annotated[int, msgspec.Meta(ge=0)] = 1


class PrefixCreate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    label: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    instructions: str
    ttl: Above0 | None = None


class PinGranted(msgspec.Struct, kw_only=True):
    object: Literal["conversation.pin", "conversation.hint"]
    id: str
    status: str
    strength: str
    tokens: int
    expires_in: float
    reason: str


class Prefetched(msgspec.Struct, kw_only=True):
    object: Literal["conversation.prefetch"]
    id: str
    tokens: int


class CacheExplanation(Explanation, kw_only=True, frozen=True):
    object: Literal["cache.explanation"]


class CacheHolders(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[CacheHolder]


class Prefixes(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[Prefix]


class Models(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[Model]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Export(msgspec.Struct, kw_only=True):
    object: Literal["conversation.export"]
    conversation: Json
    items: list[Json]


class Text(msgspec.Struct, kw_only=True, omit_defaults=True):
    prompt: str
    chatpager: Json | None = None


class Alive(msgspec.Struct, kw_only=True):
    status: Literal["ok"]


class Health(msgspec.Struct, kw_only=True):
    """``status`` is "ok" with 200; ``cause`` is of "degraded". The rest is missing while the engine does not answer."""

    status: Literal["ok", "draining", "stopped", "stalled", "restarting", "numeric_errors", "storage_lost", "degraded"]
    version: str
    model: str
    cause: str | None = None
    restarts: int | None = None
    engine: Literal["fake"] | None = None
    max_model_len: int | None = None
    kv: Json | None = None
    tiers: Json | None = None
    cache: Json | None = None
    requests: Json | None = None


class Version(msgspec.Struct, kw_only=True):
    version: str
