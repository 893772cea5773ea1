"""What completes an event, how much each has, what was asked for, and runs that Skyvern is asked for. Revision 0006."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A column with a constant default, or that may be null, is added without a rewrite, on both databases.
    for name in ("statement", "extent", "completion"):
        op.add_column("events", sa.Column(name, sa.Text(), server_default="", nullable=False))
    op.add_column("submissions", sa.Column("request", sa.Text()))
    for name in ("retried_from", "retried_by"):
        op.add_column("runs", sa.Column(name, sa.Text()))
    op.add_column("runs", sa.Column("noted_at", sa.Double()))
    op.add_column("runs", sa.Column("due_at", sa.Double()))
    op.add_column("runs", sa.Column("polls", sa.Integer(), server_default="0", nullable=False))
