"""Callbacks to another address than the submission's. Revision 0003."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A column with a constant default is added without a rewrite, on both databases.
    op.add_column("deliveries", sa.Column("target", sa.Text(), server_default="", nullable=False))
