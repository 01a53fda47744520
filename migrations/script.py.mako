"""${message}

The rules of a revision:
- The chatpager before this one must still work with the schema after it: add first, use in a release, remove in the
  next. A rename is an addition and a removal.
- It holds no lock for longer than 4 seconds: on PostgreSQL, an index on a table that exists is made with
  ``postgresql_concurrently`` in an ``op.get_context().autocommit_block()``; no rewrite of a table, no update of all
  its rows.
- It works on SQLite, where a changed column means ``op.batch_alter_table``, and on PostgreSQL.
- It imports nothing of chatpager: tables.py goes on changing, this file never does once it is released.
- There is no way down: a backup is.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
