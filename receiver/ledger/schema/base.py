"""What all tables share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, MetaData, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives out row numbers only to a column that is INTEGER PRIMARY KEY.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def partial_index(name: str, where: str, *columns: str, unique: bool = False) -> Index:
    """Return an index of the rows that meet a condition."""
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))
