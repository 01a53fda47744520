"""roots of forks

The rules of a revision are those of ``script.py.mako``. Forks that were made before have no root, and count as roots;
so the index, which is of those that have one, is empty when it is made, and nobody has to wait for it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("root", sa.Text()))
    forks = sa.text("root IS NOT NULL")
    op.create_index("ix_sessions_root", "sessions", ["root"], sqlite_where=forks, postgresql_where=forks)
