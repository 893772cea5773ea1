"""What people have said of incidents: that they look at one, that it is over, and a note."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from receiver.ledger import dialect
from receiver.ledger.schema import incident_marks


@dataclass(frozen=True, slots=True)
class IncidentMark:
    """`id`: of the incident. `state`: open, acknowledged or resolved. `marked_at`: by the database's clock."""

    source: str
    id: str
    state: str
    note: str
    marked_by: str
    marked_at: float


def marks_of(connection: sa.Connection, ids: Collection[str]) -> dict[tuple[str, str], IncidentMark]:
    """Return the marks of these incidents by source and id."""
    if not ids:
        return {}
    query = sa.select(incident_marks).where(dialect.among(incident_marks.c.id, list(ids)))
    found = (IncidentMark(**row._mapping) for row in connection.execute(query))
    return {(each.source, each.id): each for each in found}


def put(connection: sa.Connection, mark: IncidentMark) -> None:
    """Store a mark in place of the previous one of that incident."""
    dialect.put(connection, incident_marks, asdict(mark))
