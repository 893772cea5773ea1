"""Deliveries are found by source, run and event. Revision 0018.

receiver/ledger/indexes.py makes the index for that, and then drops those that it replaces. The number keeps a release
that does without it from making them again.
"""

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
