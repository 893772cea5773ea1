"""When a delivery was tried first and a breaker opened, so that both come to an end. Revision 0009."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A column with a constant default, or that may be null, is added without a rewrite, on both databases.
    op.add_column("deliveries", sa.Column("tried_at", sa.Double()))
    op.add_column("lanes", sa.Column("opened_at", sa.Double(), server_default="0", nullable=False))
