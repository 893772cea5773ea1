"""An attempt says when its delivery was made, by which it is found. Revision 0020.

receiver/ledger/indexes.py makes the index for that. PostgreSQL then drops the old primary key, whose entries were each
on a page of their own; on SQLite, which can't, a new table takes the old one's place. Attempts that are there keep 0.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_COLUMNS = "delivery_id, number, outcome, reason, receipt, retry_after, started_at, ended_at, worker"


def upgrade() -> None:
    made_at: sa.Column[float] = sa.Column("delivery_created_at", sa.Double(), nullable=False, server_default="0")
    if op.get_bind().dialect.name == "postgresql":
        op.add_column("attempts", made_at)
        return
    op.rename_table("attempts", "attempts_by_id")
    op.create_table(
        "attempts",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.Column("retry_after", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        made_at,
    )
    op.execute(f"INSERT INTO attempts ({_COLUMNS}) SELECT {_COLUMNS} FROM attempts_by_id")  # noqa: S608 - constants
    op.drop_table("attempts_by_id")
