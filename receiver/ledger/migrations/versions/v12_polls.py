"""Move the polls of runs and submissions to one table."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "v12"
down_revision = "v11"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
SUBMISSIONS = """\
INSERT INTO polls
 (source, run_id, due_at, planned_at, polls, reason, noted_at, found_by, created_at, updated_at)
SELECT s.source, CASE WHEN s.run_id = '' THEN s.id ELSE s.run_id END, s.due_at, s.due_at, s.polls, s.reason,
 r.noted_at, COALESCE(r.found_by, ''), s.created_at, s.updated_at
FROM submissions s LEFT JOIN runs r ON r.run_id = s.run_id AND r.source = s.source
WHERE s.due_at IS NOT NULL ON CONFLICT DO NOTHING"""
RUNS = """\
INSERT INTO polls
 (source, run_id, due_at, planned_at, polls, noted_at, found_by, created_at, updated_at)
SELECT source, run_id, due_at, due_at, polls, noted_at, found_by, first_seen_at, updated_at
FROM runs WHERE due_at IS NOT NULL ON CONFLICT DO NOTHING"""
MOVED = {"runs": ("noted_at", "due_at", "polls", "found_by"), "submissions": ("due_at", "polls")}


def upgrade() -> None:
    connection = op.get_bind()
    if "polls" in sa.inspect(connection).get_table_names():  # a new ledger has it from the beginning: see v10
        return
    op.create_table(
        "polls",
        sa.Column("source", TEXT, nullable=False),
        sa.Column("run_id", TEXT, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("planned_at", sa.Double, nullable=False),
        sa.Column("leased_until", sa.Double),
        sa.Column("polls", sa.Integer, nullable=False, server_default="0"),
        sa.Column("status", TEXT, nullable=False, server_default=""),
        sa.Column("reason", TEXT, nullable=False, server_default=""),
        sa.Column("noted_at", sa.Double),
        sa.Column("found_by", TEXT, nullable=False, server_default=""),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "source", name="pk_polls"),
    )
    op.create_index("ix_polls_due", "polls", ["source", "due_at", "run_id"])
    for statement in (SUBMISSIONS, RUNS):
        connection.exec_driver_sql(statement)
    for table, columns in MOVED.items():
        op.drop_index(f"ix_{table}_due", table)
        for column in columns:
            op.drop_column(table, column)
