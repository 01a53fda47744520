"""Every error chatpager raises on purpose, and what each looks like on the wire.

::

    ChatpagerError
    ├── ConfigError                 a setting is wrong: names the value and where it came from
    ├── ModelLoadError              a model folder cannot be served: names the file and the reason
    │   └── UnsupportedModel        its architecture needs something the engine lacks
    ├── RequestError                the client's request is at fault; nothing was changed
    │   ├── InvalidRequest          400  a field is missing, unknown, or has a wrong type or value
    │   ├── InvalidJSON             400  the body or frame is not JSON
    │   ├── InvalidHTTP             400  what came is no request that can be read
    │   ├── UnsupportedEvent        400  a frame's type is not one we know
    │   ├── ContextLengthExceeded   400  prompt and answer do not fit the model's window
    │   ├── InputTooLong            400  so far beyond the window that it was not tokenised whole
    │   ├── InvalidAPIKey           401
    │   ├── Forbidden               403  Origin or Host is not on the list, or the key's role does not allow it
    │   ├── TenantPaused            403  the operator lets this tenant begin nothing
    │   ├── NotFound                404  and its kinds: the id is unknown, expired, or somebody else's
    │   ├── MethodNotAllowed        405
    │   ├── TenantNotPaused         409  only a tenant that is paused can be erased
    │   ├── NothingCached           409  there is nothing to pin
    │   ├── PrefixExists            409  its label is taken by another prefix
    │   ├── PrefixTooShort          400  it has less than a block that every conversation begins with
    │   ├── UpgradeRequired         426  a plain GET where the WebSocket is
    │   ├── TooManyConversations    409  a tenant has as many as it may
    │   ├── TooManyForks            409  a conversation has been forked as often as one may be
    │   ├── SessionBusy             409  another turn of the session is running
    │   ├── ConversationChanged     409  its metadata is not what the client expected any more
    │   │   └── ConversationInUse   409  a turn of it began since it was to be deleted
    │   ├── IdempotencyConflict     409  the key came before with another request
    │   ├── ResponseEventsExpired   410  its events are gone; the whole response is there
    │   ├── RequestTooLarge         413
    │   ├── UnsupportedEncoding     415  the body is packed in a way that is not known
    │   ├── HeadTooLarge            431  the request's line, or a header of it, is too long
    │   ├── ConnectionTooOld        400  a socket has been open for as long as one may be
    │   ├── TooManyLanes            429  so many lanes of one socket are in use
    │   ├── RateLimited             429  one tenant or socket has as much as it may: others come first
    │   ├── Overloaded              503  the queue is full: try again later
    │   └── CapacityExceeded        507  the request alone cannot fit the KV cache
    ├── EngineError                 the engine's own fault
    │   ├── NumericError            a model produced NaN logits; the turn failed, its blocks are not cached
    │   ├── StepFailed              a sequence made a step raise
    │   ├── GrammarFailed           an answer cannot go on under its grammar; its turn failed
    │   ├── RankLost                a process of a model that is split has ended; so does the engine
    │   ├── EngineStopped           the engine has ended, wherever it lived
    │   └── EngineLost              each replica that computed an answer died, as often as it may move on
    └── StoreError                  the database refused or is away
        ├── NotUpgraded             it is not there yet, or has the schema of an older version
        ├── StorageFull        507  its disk is full: only what makes room is taken
        └── TurnTaken               another server that shares it has taken the turn over

Internal invariants are asserted with their numbers; they are not part of this tree.
"""

from __future__ import annotations

from typing import ClassVar


class ChatpagerError(Exception):
    """Base of every error raised on purpose."""


MAX_SHOWN = 64
"""Bytes of what a client sent that one place of an error's message shows."""


def shown(text: str) -> str:
    """What a client sent, for an error's message: quoted, and cut where it is long."""
    sent = text.encode(errors="surrogatepass")
    return repr(text if len(sent) <= MAX_SHOWN else sent[: MAX_SHOWN - 3].decode(errors="ignore") + "...")


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number too long to be shown"


class ConfigError(ChatpagerError):
    """A setting is wrong. ``source`` says where the value came from (flag, environment, file, default)."""

    def __init__(self, name: str, problem: str, *, value: object = None, source: str = "") -> None:
        self.name, self.problem, self.value, self.source = name, problem, value, source
        shown = f" = {_shown(value)}" if value is not None else ""
        origin = f" (from {source})" if source else ""
        super().__init__(f"{name}{shown}{origin}: {problem}")


class ModelLoadError(ChatpagerError):
    """A model folder cannot be served. ``path`` is the folder or file at fault."""

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"cannot load {path}: {reason}")


class UnsupportedModel(ModelLoadError):
    """The architecture needs something the engine lacks."""


class RequestError(ChatpagerError):
    """The client's request is at fault. Class attributes give its row in the wire's error table."""

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str] = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.message, self.param = message, param
        super().__init__(message)


class InvalidRequest(RequestError):
    pass


class InvalidJSON(RequestError):
    code = "invalid_json"


class InvalidHTTP(RequestError):
    code = "invalid_http"


class UnsupportedEvent(RequestError):
    code = "unsupported_event"


class ContextLengthExceeded(RequestError):
    """Carries the three numbers the client needs to mend its request, in tokens."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, max_output_tokens: int, limit: int) -> None:
        self.prompt_tokens, self.max_output_tokens, self.limit = prompt_tokens, max_output_tokens, limit
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and asks for at least {max_output_tokens} more, "
            f"but the context holds {limit}; shorten the input or start a new session",
            param="input",
        )


class InputTooLong(RequestError):
    """As ``ContextLengthExceeded``, for an input so long that its tokens were not all counted. In bytes and tokens."""

    code = "context_length_exceeded"

    def __init__(self, size: int, limit: int, *, alone: str | None = None) -> None:
        """``alone``: the field that has all of it, where no session has a part in it."""
        self.size, self.limit = size, limit
        super().__init__(
            f"the input has {size} bytes, far more than fit the {limit} tokens that the context holds; "
            + (f"shorten {alone}" if alone else "shorten the input or start a new session"),
            param=alone or "input",
        )


class InvalidAPIKey(RequestError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(RequestError):
    status, type, code = 403, "permission_error", "forbidden"


class TenantPaused(RequestError):
    status, type, code = 403, "permission_error", "tenant_paused"

    def __init__(self) -> None:
        super().__init__(
            "the operator has paused this tenant: what it has is kept, and for now it may cancel what runs, "
            "and nothing else"
        )


class NotFound(RequestError):
    status, code = 404, "not_found"


class PreviousResponseNotFound(NotFound):
    code = "previous_response_not_found"


class ResponseNotFound(NotFound):
    code = "response_not_found"


class ConversationNotFound(NotFound):
    code = "conversation_not_found"


class ItemNotFound(NotFound):
    code = "item_not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class PrefixNotFound(NotFound):
    code = "prefix_not_found"


class KeyNotFound(NotFound):
    code = "key_not_found"


class ReplicaNotFound(NotFound):
    code = "replica_not_found"


class MethodNotAllowed(RequestError):
    """``allowed``: the methods that are, as the header ``Allow`` has them."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, *, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(message)


class RequestTimeout(RequestError):
    status, code = 408, "request_timeout"


class UpgradeRequired(RequestError):
    """The path is a WebSocket's."""

    status, code = 426, "upgrade_required"


class TenantNotPaused(RequestError):
    status, code = 409, "tenant_not_paused"


class TenantBeingErased(RequestError):
    status, code = 409, "tenant_being_erased"


class NothingCached(RequestError):
    status, code = 409, "nothing_cached"


class PrefixExists(RequestError):
    status, code = 409, "prefix_exists"


class PrefixTooShort(RequestError):
    """Carries the tokens that every conversation with these instructions begins with, and those of one block."""

    code = "prefix_too_short"

    def __init__(self, tokens: int, needed: int) -> None:
        self.tokens, self.needed = tokens, needed
        super().__init__(
            f"conversations with these instructions have {tokens} tokens in common, and a block has {needed}; "
            "publish longer instructions",
            param="instructions",
        )


class TooManyConversations(RequestError):
    status, code = 409, "too_many_conversations"


class TooManyForks(RequestError):
    status, code = 409, "too_many_forks"


class Withdrawn(RequestError):
    """Its client cancelled it before it had begun."""

    status, code = 409, "response_cancelled"


class SessionBusy(RequestError):
    status, code = 409, "session_busy"


class ConversationChanged(RequestError):
    status, code = 409, "conversation_changed"

    def __init__(
        self, message: str = "its metadata was changed meanwhile: read it again", param: str = "expected_metadata"
    ) -> None:
        super().__init__(message, param=param)


class ConversationInUse(ConversationChanged):
    """It was to be deleted only if it was not used any more."""

    def __init__(self) -> None:
        super().__init__("a turn of it began meanwhile, so it was not deleted", param="idle_ms")


class IdempotencyConflict(RequestError):
    status, code = 409, "idempotency_conflict"


class ResponseEventsExpired(RequestError):
    status, code = 410, "response_events_expired"


class ResponseElsewhere(RequestError):
    """Of several servers that share a database another one computes it. ``retry_after`` is in seconds."""

    status, code = 409, "response_elsewhere"

    def __init__(self) -> None:
        self.retry_after = 1.0
        super().__init__("another server of this database computes the answer: ask there, or again when it has ended")


class RequestTooLarge(RequestError):
    status, code = 413, "request_too_large"


class UnsupportedEncoding(RequestError):
    status, code = 415, "unsupported_content_encoding"


class HeadTooLarge(RequestError):
    status, code = 431, "head_too_large"


class ConnectionTooOld(RequestError):
    """OpenAI's word for it, which clients take for a reason to connect again."""

    code = "websocket_connection_limit_reached"


class TooManyLanes(RequestError):
    status, type, code = 429, "rate_limit_error", "too_many_lanes"


class RateLimited(RequestError):
    """As ``Overloaded``, of what one tenant may have of it. ``retry_after`` is in seconds."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Overloaded(RequestError):
    """``retry_after`` is in seconds."""

    status, type, code = 503, "server_error", "server_is_overloaded"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class CapacityExceeded(RequestError):
    status, code = 507, "kv_capacity_exceeded"


class EngineError(ChatpagerError):
    """The engine's own fault; the wire shows ``code`` and no detail."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "engine_error"


class NumericError(EngineError):
    code = "engine_numeric_error"


class StepFailed(EngineError):
    code = "engine_step_failed"


class GrammarFailed(EngineError):
    """The request's own grammar is the cause: to send it again unchanged fails again."""

    type = "invalid_request_error"
    status, code = 400, "grammar_failed"


class RankLost(EngineError):
    """Of ``size`` ranks that a model is split over one has ended, or lost step with the others."""

    def __init__(self, why: str, size: int) -> None:
        self.size = size
        super().__init__(f"the model is split over {size} processes, and {why}: nothing can be computed without it")


class EngineStopped(EngineError):
    status, code = 503, "engine_stopped"


class EngineLost(EngineError):
    """One replica after the other died of something while it computed this answer, or of this answer."""

    status, code = 503, "engine_lost"


class StoreError(ChatpagerError):
    """The database refused or is away."""

    status: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "storage_unavailable"


class NotUpgraded(StoreError):
    """The database is not there yet, has no schema, or that of an older version."""


class StorageFull(StoreError):
    """Nothing more can be stored before something is deleted, or the operator makes room."""

    status, code = 507, "storage_full"


class TurnTaken(StoreError):
    """This server was taken for dead. It stores, and so tells, nothing more of a turn."""

    code = "turn_taken"

    def __init__(self) -> None:
        super().__init__(
            "another server has taken this conversation over and ended the answer with what was stored of it: ask any "
            "server for it, and go on there"
        )
