"""The disposition "new", for "news", and the key scope "resubmit", for "again". Revision 0004."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")  # the events of a large ledger may take longer than a statement
    op.execute("UPDATE events SET disposition = 'new' WHERE disposition = 'news'")
    op.execute("UPDATE keys SET scopes = replace(scopes, 'again', 'resubmit') WHERE scopes LIKE '%again%'")
