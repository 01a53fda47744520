"""weights of tenants

The rules of a revision are those of ``script.py.mako``.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("limits", sa.Column("weight", sa.BigInteger()))
