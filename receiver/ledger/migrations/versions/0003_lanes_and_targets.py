"""What is due in a lane, and callbacks to another address than the submission's. Revision 0003."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")  # the index of a large ledger may take longer than a statement
    queued = sa.text("state = 'queued'")
    # A column with a constant default is added without a rewrite, on both databases.
    op.add_column("deliveries", sa.Column("target", sa.Text(), server_default="", nullable=False))
    op.create_index(
        "ix_deliveries_queued_lane",
        "deliveries",
        ["sink", "lane", "due_at"],
        unique=False,
        postgresql_where=queued,
        sqlite_where=queued,
    )
