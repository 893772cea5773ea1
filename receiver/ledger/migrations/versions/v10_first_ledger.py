"""Create the first ledger: the tables and indexes that `schema` declares.

This revision follows the declarations until the first release, which freezes it: each later change of the tables is a
separate revision, and this one keeps a copy of the tables of that release.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from receiver.ledger.lists import words
from receiver.ledger.schema import metadata

revision = "v10"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    tables = sa.MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.sorted_tables:
        for column in table.to_metadata(tables).columns:
            # PostgreSQL compares texts by their bytes, as Python and SQLite do. A language's rules are much slower.
            if connection.dialect.name == "postgresql" and isinstance(column.type, sa.Text):
                column.type = postgresql.TEXT(collation="C")
    tables.create_all(connection, checkfirst=False)
    words.create_index(connection)
