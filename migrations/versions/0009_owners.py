"""owners of sessions and turns

The rules of a revision are those of ``script.py.mako``. A chatpager before this one writes none of it: its turns have
no owner, and it is the only server of its database.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("sessions", "turns"):
        op.add_column(table, sa.Column("owner", sa.Text()))
        op.add_column(table, sa.Column("owner_epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "owners",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_owners"),
    )
