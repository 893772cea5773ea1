"""Walks of Skyvern's list of runs, the runs that were under way there, schedules, changed agents. Revision 0007."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "watches",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("watermark", sa.Double()),
        sa.Column("due_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("walked_at", sa.Double()),
        sa.Column("gap_at", sa.Double()),
        sa.Column("trouble", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_watches")),
    )
    op.create_table(
        "active_runs",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double()),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("first_seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("source", "run_id", name=op.f("pk_active_runs")),
    )
    op.create_table(
        "schedules",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("next_run", sa.Double()),
        sa.Column("missed", sa.Double()),
        sa.Column("checked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("source", "schedule_id", name=op.f("pk_schedules")),
    )
    op.create_table(
        "agent_changes",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("before", sa.Text()),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("source", "agent_id", name=op.f("pk_agent_changes")),
    )
    op.add_column("runs", sa.Column("found_by", sa.Text(), server_default="", nullable=False))
