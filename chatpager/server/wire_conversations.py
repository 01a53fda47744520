"""A conversation, and what the cache has of it.

Shapes after OpenAI's API reference for Conversations (openai-python 3.52 types); the cache is ours.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, Any]
    chatpager: dict[str, Any]


class ConversationCache(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the conversation that were kept at its last turn's end: all, those in the device's cache, those that
    host memory and disk have behind them, those shared with other conversations; and its leases."""

    object: str = "conversation.cache"
    id: str
    tokens: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0
    shared_tokens: int = 0
    leases: list[dict[str, Any]] = []


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """A published prefix. ``status`` "not_served": it is of another vocabulary than the served model's, or has no whole
    block any more, and nothing shares it. Tokens as in ``ConversationCache``; ``sessions`` are the conversations that
    begin with it, of those spoken in since the start. ``pin`` is what was granted, where one was asked for."""

    object: str = "prefix"
    label: str
    status: Literal["published", "not_served"]
    model: str
    created_at: int
    tokens: int = 0
    blocks: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0
    sessions: int = 0
    leases: list[dict[str, Any]] = []
    instructions: str | None = None
    pin: dict[str, Any] | None = None


class CacheHolder(ConversationCache, frozen=True, kw_only=True):
    """One of several, who may be several tenants'."""

    tenant: str


class CacheEvent(msgspec.Struct, frozen=True):
    """A KV block came into the device's cache or left it; ``block`` and ``parent`` are its name and that of the block
    before it, in hexadecimal."""

    type: str
    sequence_number: int
    block: str
    parent: str | None


class CacheEvents(msgspec.Struct, frozen=True, kw_only=True):
    """``missed`` events came between and are not kept any more, or the ``epoch`` is another, because the server was
    started anew: ask without ``after`` for what there is now."""

    object: str = "list"
    data: list[CacheEvent]
    epoch: str
    last_sequence_number: int
    missed: int
