"""A claim as columns: claim_owner, claim_number and prefetched, for "<owner>/<number>" with a "+". Revision 0005."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A column with a constant default is added without a rewrite, on both databases.
    op.add_column("deliveries", sa.Column("claim_owner", sa.Text(), server_default="", nullable=False))
    op.add_column("deliveries", sa.Column("claim_number", sa.Integer(), server_default="0", nullable=False))
    op.add_column("deliveries", sa.Column("prefetched", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    connection = op.get_bind()
    claimed = connection.execute(sa.text("SELECT id, claim FROM deliveries WHERE state = 'sending'")).all()
    set_claim = sa.text("UPDATE deliveries SET claim_owner = :o, claim_number = :n, prefetched = :p WHERE id = :id")
    for delivery, claim in claimed:
        owner, _, number = claim.removesuffix("+").rpartition("/")
        connection.execute(set_claim, {"o": owner, "n": int(number or 0), "p": claim.endswith("+"), "id": delivery})
    op.drop_column("deliveries", "claim")
