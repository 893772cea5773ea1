"""Moments that all hosts must agree on. Revision 0011."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    marks = op.create_table(
        "marks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_marks")),
    )
    # What earlier versions have put in the inbox has no signature. A new ledger had none; one that has seen nothing but
    # the heartbeats of its processes, or a key, is not new, and its first events may wait in the inbox.
    for name in ("events", "submissions", "keys", "lanes", "watches", "heartbeats"):
        if op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)).first() is not None:
            op.bulk_insert(marks, [{"name": "inbox_unsigned_until", "at": time.time() + 86400.0}])
            break
