"""Keys that expire, and by which key one was replaced. Revision 0017."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("keys", sa.Column("expires_at", sa.Double()))
    op.add_column("keys", sa.Column("replaced_by", sa.Text(), server_default="", nullable=False))
