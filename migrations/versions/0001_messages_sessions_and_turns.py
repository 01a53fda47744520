"""messages, sessions and turns

The rules of a revision are those of ``script.py.mako``; the first one has no release before it to care for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("parent_hash", sa.Text()),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary()),
        sa.Column("vocab", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["parent_hash"], ["messages.hash"], name="fk_messages_parent_hash"),
        sa.PrimaryKeyConstraint("hash", name="pk_messages"),
    )
    op.create_index("ix_messages_parent_hash", "messages", ["parent_hash"])
    op.create_index("ix_messages_content_hash", "messages", ["content_hash"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("tip_hash", sa.Text()),
        sa.Column("forked_from", sa.Text()),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tip_hash"], ["messages.hash"], name="fk_sessions_tip_hash"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_tip_hash", "sessions", ["tip_hash"])
    op.create_index("ix_sessions_tenant_updated_at_id", "sessions", ["tenant", "updated_at", "id"])
    op.create_table(
        "turns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text()),
        sa.Column("previous_turn_id", sa.Text()),
        sa.Column("parent_hash", sa.Text()),
        sa.Column("input_tip", sa.Text(), nullable=False),
        sa.Column("tip_hash", sa.Text()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("vocab", sa.Text(), nullable=False),
        sa.Column("client_key", sa.Text()),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("usage", sa.Text()),
        sa.Column("receipt", sa.Text()),
        sa.Column("timings", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_turns_session_id"),
        sa.ForeignKeyConstraint(["input_tip"], ["messages.hash"], name="fk_turns_input_tip"),
        sa.ForeignKeyConstraint(["tip_hash"], ["messages.hash"], name="fk_turns_tip_hash"),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
        sa.UniqueConstraint("tenant", "client_key", name="uq_turns_tenant_client_key"),
    )
    op.create_index("ix_turns_session_id", "turns", ["session_id"])
    op.create_index("ix_turns_input_tip", "turns", ["input_tip"])
    op.create_index("ix_turns_tip_hash", "turns", ["tip_hash"])
    live = sa.text("status = 'in_progress'")
    op.create_index("ix_turns_live", "turns", ["tenant"], sqlite_where=live, postgresql_where=live)
    op.create_index(
        "ix_turns_live_session", "turns", ["session_id"], unique=True, sqlite_where=live, postgresql_where=live
    )
    op.create_table(
        "responses",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_responses_turn_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn_id", name="pk_responses"),
    )
    op.create_table(
        "turn_journal",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("first_index", sa.BigInteger(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("turn_id", "first_index", name="pk_turn_journal"),
        sqlite_with_rowid=False,
    )
