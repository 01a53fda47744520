"""What each route takes and gives, for the API description. A route of ``app.py`` that is not here fails the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from chatpager.server import openapi_shapes as shapes
from chatpager.server import wire, wire_admin, wire_chat, wire_conversations, wire_events, wire_tenants
from chatpager.server.completion_requests import CompletionCreate
from chatpager.server.message_requests import MessageCreate, TokenCount
from chatpager.server.request_bodies import ChatCreate, Includable, ResponseCreate
from chatpager.server.routes_audit import Audit
from chatpager.server.routes_login import LoggedIn, Login, WsTicket
from chatpager.server.routes_reveal import Revealed
from chatpager.server.routes_tokens import Detokenize, Tokenize
from chatpager.server.wire_completions import Completion
from chatpager.server.wire_messages import AnthropicError, AnthropicMessage, CountedTokens, MessageEvent

# A stream that a mistake of the server's ends says so last.
RESPONSE_EVENTS = wire_events.StreamEvent | wire_events.ErrorEvent
CHAT_EVENTS = wire_chat.ChatChunk | wire.ErrorAnswer
COMPLETION_EVENTS = Completion | wire.ErrorAnswer
MESSAGE_EVENTS = MessageEvent | AnthropicError


class Operation(NamedTuple):
    """``body`` None: there is none. ``events``: of the stream that comes instead of ``answer`` where it is asked for.
    ``keyed``: asked for twice with the same key it is done once; so is what has a stream.
    ``also`` are answers of other media types, by those."""

    summary: str
    answer: Any = None
    body: type[msgspec.Struct] | None = None
    body_required: bool = True
    query: Mapping[str, Any] = {}
    events: Any = None
    keyed: bool = False
    also: Mapping[str, Any] = {}
    error: type[msgspec.Struct] = wire.ErrorAnswer
    statuses: Mapping[str, str] = {}
    """Of answers without a JSON body, and what they mean."""
    fails: Mapping[str, Any] = {}
    """Statuses whose body is not the error's."""


PAGE = Annotated[int, msgspec.Meta(ge=1, le=100)]
IDLE = Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]
INCLUDE = {"include": Includable, "include[]": Includable}
"""OpenAI's client writes a list with brackets. What there is of these is always there."""
LIST = {"after": str, "limit": PAGE, "order": Literal["asc", "desc"], **INCLUDE}
RESUME = {"response_id": str, "starting_after": int, "conversation": str, "ticket": str}
ANTHROPIC: dict[str, Any] = {"error": AnthropicError}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/v1/responses"): Operation("The Responses WebSocket", query=RESUME, statuses={"101": "A WebSocket"}),
    ("POST", "/v1/responses"): Operation("Begin a response", wire.Response, ResponseCreate, events=RESPONSE_EVENTS),
    ("GET", "/v1/responses/{id}"): Operation(
        "A response, or its events",
        wire.Response,
        query={"stream": bool, "starting_after": int, "include_obfuscation": bool, **INCLUDE},
        events=RESPONSE_EVENTS,
    ),
    ("DELETE", "/v1/responses/{id}"): Operation("Delete a response", wire.Deleted),
    ("POST", "/v1/responses/input_tokens"): Operation(
        "Count the tokens of a response's prompt", wire.InputTokens, ResponseCreate
    ),
    ("POST", "/v1/responses/{id}/cancel"): Operation("End a running response", wire.Response),
    ("GET", "/v1/responses/{id}/input_items"): Operation("What a response was asked", wire.Page, query=LIST),
    ("POST", "/v1/chat/completions"): Operation(
        "Answer a conversation", wire_chat.ChatCompletion, ChatCreate, events=CHAT_EVENTS
    ),
    ("DELETE", "/v1/chat/completions/{id}"): Operation("Forget a chat completion", wire.Deleted),
    ("POST", "/v1/completions"): Operation(
        "Go on from bare prompts", Completion, CompletionCreate, events=COMPLETION_EVENTS
    ),
    ("POST", "/v1/messages"): Operation(
        "Answer a conversation, as Anthropic has it",
        AnthropicMessage,
        MessageCreate,
        events=MESSAGE_EVENTS,
        **ANTHROPIC,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "Count the tokens of a message's prompt", CountedTokens, TokenCount, **ANTHROPIC
    ),
    ("DELETE", "/v1/messages/{id}"): Operation("Forget a message", wire.Deleted, **ANTHROPIC),
    ("POST", "/v1/conversations"): Operation(
        "Begin a conversation",
        wire_conversations.Conversation,
        shapes.ConversationCreate,
        body_required=False,
        keyed=True,
    ),
    ("GET", "/v1/conversations"): Operation(
        "List conversations", wire.Page, query={"after": str, "limit": PAGE, "order": Literal["desc"], "search": str}
    ),
    ("GET", "/v1/conversations/{id}"): Operation("A conversation", wire_conversations.Conversation),
    ("POST", "/v1/conversations/{id}"): Operation(
        "Change a conversation's metadata", wire_conversations.Conversation, shapes.ConversationUpdate
    ),
    ("DELETE", "/v1/conversations/{id}"): Operation("Delete a conversation", wire.Deleted, query={"idle_ms": IDLE}),
    ("POST", "/v1/conversations/{id}/items"): Operation(
        "Add items", wire.Page, shapes.ItemsCreate, query=INCLUDE, keyed=True
    ),
    ("GET", "/v1/conversations/{id}/items"): Operation("List items", wire.Page, query=LIST),
    ("GET", "/v1/conversations/{id}/items/{item}"): Operation("An item", wire.AnyItem, query=INCLUDE),
    ("DELETE", "/v1/conversations/{id}/items/{item}"): Operation(
        "Take an item out of a conversation", wire_conversations.Conversation
    ),
    ("GET", "/v1/conversations/{id}/export"): Operation(
        "All of a conversation",
        shapes.Export,
        query={"format": Literal["json", "md"]},
        also={"text/markdown": str},
    ),
    ("GET", "/v1/conversations/{id}/cache"): Operation(
        "What of a conversation is cached", wire_conversations.ConversationCache
    ),
    ("PUT", "/v1/conversations/{id}/pin"): Operation(
        "Keep a conversation's prefix", shapes.PinGranted, shapes.Pin, body_required=False
    ),
    ("DELETE", "/v1/conversations/{id}/pin"): Operation("End a conversation's leases", wire.Deleted),
    ("POST", "/v1/conversations/{id}/fork"): Operation(
        "Go another way from the same past",
        wire_conversations.Conversation,
        shapes.Fork,
        body_required=False,
        keyed=True,
    ),
    ("POST", "/v1/conversations/{id}/rewind"): Operation(
        "Go back to an earlier answer", wire_conversations.Conversation, shapes.Rewind
    ),
    ("POST", "/v1/conversations/{id}/compact"): Operation(
        "Put a summary in place of what is older", wire_conversations.Conversation, shapes.Compact, keyed=True
    ),
    ("POST", "/v1/conversations/{id}/prefetch"): Operation(
        "Bring a conversation back from host memory or disk", shapes.Prefetched
    ),
    ("POST", "/v1/conversations/{id}/hint"): Operation(
        "Say what a conversation waits for", shapes.PinGranted, shapes.Hint
    ),
    ("GET", "/v1/cache/top"): Operation("Who has most of the cache", shapes.CacheHolders, query={"limit": PAGE}),
    ("GET", "/v1/cache/events"): Operation(
        "Blocks that came into the cache and left it",
        wire_conversations.CacheEvents,
        query={"after": int, "limit": Annotated[int, msgspec.Meta(ge=1, le=10_000)], "replica": str},
    ),
    ("GET", "/v1/cache/explain"): Operation(
        "Where the prompts of two responses part", shapes.CacheExplanation, query={"first": str, "second": str}
    ),
    ("POST", "/v1/prefixes"): Operation("Publish a prefix", wire_conversations.Prefix, shapes.PrefixCreate),
    ("GET", "/v1/prefixes"): Operation("List published prefixes", shapes.Prefixes),
    ("GET", "/v1/prefixes/{label}"): Operation("A published prefix", wire_conversations.Prefix),
    ("DELETE", "/v1/prefixes/{label}"): Operation("Withdraw a prefix", wire.Deleted),
    ("GET", "/v1/admin/snapshot"): Operation("The whole server's figures", wire_admin.Snapshot),
    ("GET", "/v1/admin/live"): Operation("The same, once a second", events=wire_admin.Snapshot),
    ("GET", "/v1/admin/history"): Operation(
        "What turns found in the cache over time",
        wire_admin.History,
        query={"seconds": int},
    ),
    ("GET", "/v1/admin/tables"): Operation("Who reuses what", wire_admin.Tables),
    ("GET", "/v1/admin/blocks"): Operation(
        "The block map, or what changed of it",
        query={"since": int, "epoch": int},
        also={"application/octet-stream": bytes},
    ),
    ("GET", "/v1/admin/blocks/{id}"): Operation("A KV block", wire_admin.Block),
    ("GET", "/v1/admin/leases"): Operation("What leases keep", wire_admin.Leases),
    ("PUT", "/v1/admin/sessions/{tenant}/{id}/pin"): Operation(
        "Keep any tenant's conversation", shapes.PinGranted, shapes.Pin, body_required=False
    ),
    ("DELETE", "/v1/admin/sessions/{tenant}/{id}/pin"): Operation("End its leases", wire.Deleted),
    ("GET", "/v1/admin/sessions/{tenant}/{id}/turns"): Operation(
        "The phases of a conversation's turns", wire_admin.Timeline
    ),
    ("POST", "/v1/admin/sessions/{tenant}/{id}/turns/{turn}/reveal"): Operation("What was said in a turn", Revealed),
    ("POST", "/v1/admin/requests/{id}/cancel"): Operation("End any tenant's running turn", wire_admin.Cancelling),
    ("GET", "/v1/admin/settings"): Operation("The settings and where they came from", wire_admin.Settings),
    ("POST", "/v1/admin/drain"): Operation("Take no new turns and end those that run", wire_admin.Drained),
    ("GET", "/v1/admin/replicas"): Operation("The engines behind the server", wire_admin.Replicas),
    ("POST", "/v1/admin/replicas/{id}/drain"): Operation("Begin no turn at an engine any more", wire_admin.Replicas),
    ("POST", "/v1/admin/replicas/{id}/resume"): Operation("Let it go on", wire_admin.Replicas),
    ("GET", "/v1/admin/tenants"): Operation(
        "Tenants, what they may ask for and what is left", wire_tenants.Tenants, query={"search": str}
    ),
    ("PUT", "/v1/admin/tenants/{tenant}/limits"): Operation(
        "Say what a tenant may ask for", wire_tenants.Tenant, wire_tenants.TenantLimits, body_required=False
    ),
    ("PUT", "/v1/admin/keys/{id}/limits"): Operation(
        "Say what a key may ask for",
        wire_tenants.LimitedKey,
        wire_tenants.KeyLimits,
        body_required=False,
        query={"tenant": str},
    ),
    ("POST", "/v1/admin/tenants/{tenant}/pause"): Operation("Let a tenant begin nothing", wire_tenants.Tenant),
    ("POST", "/v1/admin/tenants/{tenant}/resume"): Operation("Let it go on", wire_tenants.Tenant),
    ("DELETE", "/v1/admin/tenants/{tenant}"): Operation("Erase a paused tenant", wire_tenants.ErasedTenant),
    ("POST", "/tokenize"): Operation("Text or messages as tokens", wire.Tokens, Tokenize),
    ("POST", "/detokenize"): Operation("Tokens as text", shapes.Text, Detokenize),
    ("GET", "/v1/models"): Operation("The model that is served", shapes.Models),
    ("GET", "/v1/models/{id}"): Operation("A model", wire.Model),
    ("GET", "/health"): Operation("Ready for turns, or not", shapes.Health, fails={"503": shapes.Health}),
    ("GET", "/health/live"): Operation("The process answers", shapes.Alive),
    ("GET", "/health/ready"): Operation("Ready for turns, or not", shapes.Health, fails={"503": shapes.Health}),
    ("GET", "/v1/admin/audit"): Operation(
        "What was done that users may not do, the latest first",
        Audit,
        query={"before": int, "limit": PAGE},
    ),
    ("POST", "/v1/login"): Operation("Get a cookie for a key", LoggedIn, Login),
    ("GET", "/v1/login"): Operation("Who is in", LoggedIn),
    ("DELETE", "/v1/login"): Operation("Log out", LoggedIn),
    ("POST", "/v1/ws-tickets"): Operation("Get what opens one WebSocket", WsTicket),
    ("GET", "/version"): Operation("The server's version", shapes.Version),
    ("GET", "/metrics"): Operation("Prometheus metrics", also={"text/plain": str}),
    ("GET", "/openapi.json"): Operation(
        "This description", dict[str, Any], statuses={"304": "The one that the client has"}
    ),
    ("GET", "/{path}"): Operation("The chat page and its files", also={"text/html": str}),
}
