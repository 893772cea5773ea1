"""Indexes with which no query reads the whole backlog, and operations that were cancelled for time. Revision 0012."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")  # the index of a large ledger may take longer than a statement
    # Most sinks have one lane, which bears their name: their deliveries need no entry here.
    op.drop_index("ix_deliveries_queued_lane", "deliveries")
    many_lanes = sa.text("state = 'queued' AND lane <> sink")
    op.create_index(
        "ix_deliveries_queued_lane",
        "deliveries",
        ["sink", "lane", "due_at"],
        unique=False,
        postgresql_where=many_lanes,
        sqlite_where=many_lanes,
    )
    stopped = sa.text("state = 'held' OR state = 'waiting' OR state = 'dead'")
    op.create_index(
        "ix_deliveries_stopped",
        "deliveries",
        ["state", "sink", "due_at"],
        unique=False,
        postgresql_where=stopped,
        sqlite_where=stopped,
    )
    # Polls are counted and leased by source: what waits for one is not read for another.
    due = sa.text("due_at IS NOT NULL")
    for table in ("runs", "submissions"):
        op.drop_index(f"ix_{table}_due", table)
        op.create_index(
            f"ix_{table}_due", table, ["source", "due_at"], unique=False, postgresql_where=due, sqlite_where=due
        )
    shut = sa.text("paused OR breaker <> 'closed'")
    op.create_index("ix_lanes_shut", "lanes", ["sink"], unique=False, postgresql_where=shut, sqlite_where=shut)
    op.create_table(
        "timeouts",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("operation", name=op.f("pk_timeouts")),
    )
