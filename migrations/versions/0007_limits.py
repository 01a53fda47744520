"""limits of tenants and keys

The rules of a revision are those of ``script.py.mako``. A chatpager before this one knows the settings' limits alone,
and that nobody is paused.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.BigInteger()),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
        sa.Column("max_conversations", sa.BigInteger()),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_limits"),
    )
