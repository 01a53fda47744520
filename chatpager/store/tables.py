"""The schema as SQLAlchemy sees it; ``migrations/`` is what makes it. ``alembic check`` keeps the two equal.

Every index serves a query or the deletion of a row that others point to. Ids that are provenance only
(``forked_from``, ``root``, ``previous_turn_id``, and ``turns.parent_hash``, an ancestor of ``input_tip``) have no
foreign key: what they name may be deleted without them. Nor has the journal: on PostgreSQL the check was more than half
of the time of a step (2.7 ms for 64 rows, 1.1 ms without), so who deletes a turn deletes its journal.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Json(TypeDecorator[Any]):
    """JSON in a text column, NUL characters escaped, as PostgreSQL needs them; None is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else msgspec.json.decode(value)


messages = Table(
    "messages",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("parent_hash", Text, ForeignKey("messages.hash"), index=True),
    Column("content_hash", Text, nullable=False, index=True),
    Column("tenant", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("token_ids", LargeBinary),
    Column("vocab", Text),
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("tip_hash", Text, ForeignKey("messages.hash"), index=True),
    Column("forked_from", Text),
    Column("title", Text, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("parameters", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("root", Text),
    Column("owner", Text),
    Column("owner_epoch", BigInteger, nullable=False, server_default=text("0")),
    Index(None, "tenant", "updated_at", "id"),
)
_FORKS: dict[str, Any] = {f"{name}_where": text("root IS NOT NULL") for name in ("sqlite", "postgresql")}
Index("ix_sessions_root", sessions.c.root, **_FORKS)

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id"), index=True),
    Column("previous_turn_id", Text),
    Column("parent_hash", Text),
    Column("input_tip", Text, ForeignKey("messages.hash"), nullable=False, index=True),
    Column("tip_hash", Text, ForeignKey("messages.hash"), index=True),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("vocab", Text, nullable=False),
    Column("client_key", Text),
    Column("request", Json, nullable=False),
    Column("usage", Json),
    Column("receipt", Json),
    Column("timings", Json),
    Column("error", Json),
    Column("created_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("owner", Text),
    Column("owner_epoch", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("tenant", "client_key"),
)
LIVE = turns.c.status == literal_column("'in_progress'")
"""In the statement, not in its parameters: else SQLite would not use the indexes of live turns."""
_LIVE: dict[str, Any] = {f"{name}_where": text("status = 'in_progress'") for name in ("sqlite", "postgresql")}
Index("ix_turns_live", turns.c.tenant, **_LIVE)
Index("ix_turns_live_session", turns.c.session_id, unique=True, **_LIVE)

responses = Table(
    "responses",
    metadata,
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    Column("body", Json, nullable=False),
)

STEP = ""
"""In place of a turn's id: what SQLite has of one step and all its turns (``step_log``), under the step's number."""
turn_journal = Table(
    "turn_journal",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("first_index", BigInteger, primary_key=True, autoincrement=False),
    Column("token_ids", LargeBinary, nullable=False),
    Column("text", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

owners = Table(
    "owners",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lease_until", BigInteger, nullable=False),
)
"""Servers that share the database; ``lease_until`` in milliseconds of its clock."""

prefixes = Table(
    "prefixes",
    metadata,
    Column("label", Text, primary_key=True),
    Column("instructions", Json, nullable=False),
    Column("model", Text, nullable=False),
    Column("vocab", Text, nullable=False),
    Column("token_ids", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("prefix", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("expires_at", BigInteger),
)

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("address", Text, nullable=False),
)

limits = Table(
    "limits",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("paused_at", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("max_conversations", BigInteger),
    Column("weight", BigInteger),
)

history = Table(
    "history",
    metadata,
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("figures", Json, nullable=False),
)
"""``minute`` is its first second since the epoch."""
