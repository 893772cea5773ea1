"""The API key that gave the address of a callback, and signs it. Revision 0010."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("target_key", sa.Text(), server_default="", nullable=False))
