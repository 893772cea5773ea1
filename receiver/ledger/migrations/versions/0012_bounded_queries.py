"""Drops the indexes that some queries outgrew; operations that were cancelled for time. Revision 0012."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What had these names had other columns. receiver/ledger/indexes.py makes them as they are declared today.
    for name, table in (
        ("ix_deliveries_queued_lane", "deliveries"),
        ("ix_runs_due", "runs"),
        ("ix_submissions_due", "submissions"),
    ):
        op.drop_index(name, table, if_exists=True)
    op.create_table(
        "timeouts",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("operation", name=op.f("pk_timeouts")),
    )
