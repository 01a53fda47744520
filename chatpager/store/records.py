"""What the store takes and gives: frozen structs. A time is in milliseconds since the epoch and always an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from chatpager.store.chain import MessageHash

Content = Sequence[dict[str, Any]]
"""Content parts, such as ``[{"type": "text", "text": "Hello"}]``."""

EndStatus = Literal["completed", "incomplete", "interrupted", "cancelled", "failed"]
"""How a turn ended, and with it its answer; every other message is ``completed``."""
TurnStatus = Literal["in_progress"] | EndStatus
TurnKind = Literal["response", "chat", "completion", "message"]

Role = Literal["user", "admin", "read-only"]
"""A user has what is its tenant's; an admin also sees what is the whole server's, and a read-only one nothing else than
that: no conversation, and nothing that it could change."""

TipMove = Literal["moved", "session_moved", "no_session", "already_finished", "turn_gone", "turn_taken"]
"""What the end of a turn did to its session's tip.

``moved``: the tip is the turn's answer (or, without an answer, still its input). ``session_moved``: the session went
another way meanwhile; the answer is stored beside it. ``no_session``: the turn has none, or it was deleted meanwhile.
``already_finished``, ``turn_gone``, ``turn_taken``: nothing was changed, because the turn had ended, been deleted, or
been taken over by another server.
"""


def text_content(text: str) -> Content:
    return [{"type": "text", "text": text}]


def text_of(content: Iterable[Mapping[str, Any]]) -> str:
    """The text of a message's content, its parts joined."""
    return "".join(part["text"] for part in content if part.get("type") == "text")


class NewMessage(Struct, frozen=True, kw_only=True):
    """A message to store. ``token_ids`` and the ``vocab`` they belong to are known together or not at all.

    ``vocab`` is the fingerprint of a tokenizer and its chat template.
    """

    role: str
    content: Content
    status: EndStatus = "completed"
    vocab: str | None = None
    token_ids: Sequence[int] | None = None


class Message(Struct, frozen=True, kw_only=True):
    """A stored message."""

    hash: MessageHash
    parent_hash: MessageHash | None
    content_hash: MessageHash
    tenant: str
    role: str
    content: Content
    status: EndStatus
    vocab: str | None
    token_ids: tuple[int, ...] | None
    created_at: int


class Session(Struct, frozen=True, kw_only=True):
    """A conversation. ``updated_at`` is when a message last came in: renaming is no activity.

    ``forked_from`` names a session that may have been deleted since, and so does ``root``: the one from which this one
    and all that it was forked from came. ``owner`` is the server that may write its turns, or wrote the last one, and
    ``owner_epoch`` grows with every change of it.
    """

    id: str
    tenant: str
    tip_hash: MessageHash | None
    forked_from: str | None
    title: str
    metadata: dict[str, Any]
    parameters: dict[str, Any]
    created_at: int
    updated_at: int
    root: str | None = None
    owner: str | None = None
    owner_epoch: int = 0

    @property
    def cursor(self) -> str:
        """What ``list_sessions`` takes as ``after`` to go on behind this one."""
        return f"{self.updated_at}.{self.id}"


class NewTurn(Struct, frozen=True, kw_only=True):
    """A turn to begin: ``messages`` are its input, attached behind ``parent_hash``.

    ``expected_tip`` is where the session must stand; by default at ``parent_hash``. It differs where a turn goes back:
    another answer to an earlier message, or an earlier message edited. ``client_key`` makes the beginning idempotent:
    the same key with the same input gives the turn that exists. ``title`` names the session if it has no name, and
    where it ``renames`` it, one that has.
    """

    id: str
    tenant: str
    kind: TurnKind
    model: str
    vocab: str
    messages: Sequence[NewMessage]
    now: int
    session_id: str | None = None
    previous_turn_id: str | None = None
    parent_hash: MessageHash | None = None
    expected_tip: MessageHash | UnsetType | None = UNSET
    client_key: str | None = None
    request: dict[str, Any] = {}
    title: str = ""
    renames: bool = False


class Turn(Struct, frozen=True, kw_only=True):
    """A turn's provenance. ``tip_hash`` is the answer: None until the end, and at the end of a turn without one."""

    id: str
    tenant: str
    session_id: str | None
    previous_turn_id: str | None
    parent_hash: MessageHash | None
    input_tip: MessageHash
    tip_hash: MessageHash | None
    kind: TurnKind
    status: TurnStatus
    model: str
    vocab: str
    client_key: str | None
    request: dict[str, Any]
    usage: dict[str, Any] | None
    receipt: dict[str, Any] | None
    timings: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: int
    completed_at: int | None
    owner: str | None = None
    owner_epoch: int = 0

    @property
    def led_to(self) -> MessageHash | None:
        """Where the conversation ends with it: its answer, or what was said where only the prompt was to be computed.
        None of a turn that came to nothing."""
        return _led_to(self)


class TurnAlone(NamedTuple):
    """Of a turn without a session what tells where it stands among the others; as ``Turn`` has it."""

    id: str
    tenant: str
    previous_turn_id: str | None
    parent_hash: MessageHash | None
    input_tip: MessageHash
    tip_hash: MessageHash | None
    status: TurnStatus

    @property
    def led_to(self) -> MessageHash | None:
        return _led_to(self)


def _led_to(turn: Turn | TurnAlone) -> MessageHash | None:
    return turn.tip_hash or (turn.input_tip if turn.status == "completed" else None)


class Prefix(Struct, frozen=True, kw_only=True):
    """What an operator publishes for every tenant: instructions, and the ids of the ``vocab`` that every conversation
    which begins with them begins with."""

    label: str
    instructions: str
    model: str
    vocab: str
    token_ids: Sequence[int]
    created_at: int


class BegunTurn(Struct, frozen=True, kw_only=True):
    """``duplicate``: the client had sent this turn before; nothing was changed and ``turn`` is the earlier one."""

    turn: Turn
    messages: tuple[MessageHash, ...]
    duplicate: bool = False


class JournalEntry(Struct, frozen=True, kw_only=True, gc=False):
    """Tokens of a live turn, written before they are sent. ``first_index`` counts the turn's tokens from 0."""

    turn_id: str
    first_index: int
    token_ids: Sequence[int]
    text: str

    def then(self, next: JournalEntry) -> JournalEntry:
        """Both in one: ``next`` is of the same turn, and begins where this one ends."""
        return JournalEntry(
            turn_id=self.turn_id,
            first_index=self.first_index,
            token_ids=(*self.token_ids, *next.token_ids),
            text=self.text + next.text,
        )


class Journaled(Struct, frozen=True, kw_only=True):
    """What a live turn's journal holds, up to the first gap if there is one."""

    token_ids: tuple[int, ...]
    text: str


ReadContent = Callable[[Turn, Journaled], Content]
"""What a live turn's answer consists of, as far as the journal has it. Called in some thread."""


class FinishedTurn(Struct, frozen=True, kw_only=True):
    """A turn's end. ``message`` is the answer, or None where there is not a token of one; ``response`` the body:
    what msgspec can write, which need not be made a dictionary first."""

    id: str
    tenant: str
    status: EndStatus
    message: NewMessage | None
    now: int
    usage: dict[str, Any] | None = None
    receipt: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    response: object | None = None


class Finished(Struct, frozen=True, kw_only=True):
    """``status`` is the end that is stored, perhaps an earlier one; None where the turn is gone."""

    tip_hash: MessageHash | None
    tip: TipMove
    status: EndStatus | None


class Recovered(Struct, frozen=True, kw_only=True):
    """A turn that was found without an owner, and the ``tokens`` of its answer that were in the journal."""

    turn_id: str
    tenant: str
    session_id: str | None
    tip_hash: MessageHash | None
    tip: TipMove
    tokens: int


class DeletedSession(Struct, frozen=True, kw_only=True):
    """``live_turns`` run on without their session; a caller who wants their answers gone deletes them when they end."""

    messages: int
    turns: int
    live_turns: tuple[str, ...]


class ApiKey(Struct, frozen=True, kw_only=True):
    """What is stored of a key: ``digest`` is its SHA-256, ``prefix`` its first characters, for people; from
    ``expires_at`` on it opens nothing."""

    id: str
    tenant: str
    name: str
    role: Role
    digest: bytes
    prefix: str
    created_at: int
    revoked_at: int | None
    expires_at: int | None = None

    def opens(self, now: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class AuditEntry(Struct, frozen=True, kw_only=True):
    """What somebody did who may do what users may not. ``key``: the id of a stored key, "own" (the server's, which
    settings name), "none" (a server that asks for none) or "operator" (who has the machine); ``address``: where it came
    from."""

    number: int = 0
    """The store gives it; a later one is higher."""
    at: int
    key: str
    tenant: str
    action: str
    target: str
    address: str


class Limits(Struct, frozen=True, kw_only=True):
    """What an operator allows a tenant, or a key by its id; None: what the settings say of a tenant, and any number for
    a key. ``weight``: requests that are begun of it in each round, None: one. ``paused_at``: a tenant begins nothing
    since then."""

    kind: Literal["tenant", "key"]
    name: str
    paused_at: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_conversations: int | None = None
    weight: int | None = None


class TenantRow(Struct, frozen=True, kw_only=True):
    """``keys``: those that were not revoked."""

    tenant: str
    conversations: int
    keys: int
