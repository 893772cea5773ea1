"""Drop the tables of removed features."""

import sqlalchemy as sa
from alembic import op

revision = "v11"
down_revision = "v10"
branch_labels = None
depends_on = None

DROPPED = ("incident_marks", "saved_views", "schedules")


def upgrade() -> None:
    tables = sa.inspect(op.get_bind()).get_table_names()
    for name in DROPPED:
        if name in tables:  # a new ledger never has them: see v10
            op.drop_table(name)
