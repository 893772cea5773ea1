"""Store the sessions of people who are signed in to the console. Only the hash of a session's token is stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from receiver.ledger.database import many_rows
from receiver.ledger.schema import console_sessions


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """A signed-in person. `hash`: SHA-256 of the token. Times: seconds since the epoch, by the database's clock.

    `credential`: hash of what the password was checked against, so that a changed password ends the session.
    """

    hash: str = field(repr=False)
    user: str
    credential: str = field(repr=False)
    created_at: float
    expires_at: float


def create(connection: sa.Connection, session: ConsoleSession) -> None:
    """Insert a session, and delete those that have expired."""
    connection.execute(sa.delete(console_sessions).where(console_sessions.c.expires_at < session.created_at))
    many_rows.put(connection, console_sessions, asdict(session))


def find(connection: sa.Connection, digest: str, now: float) -> ConsoleSession | None:
    """Return the session with this hash that has not expired."""
    it = console_sessions.c
    row = connection.execute(sa.select(console_sessions).where(it.hash == digest, it.expires_at > now)).first()
    return None if row is None else ConsoleSession(**row._mapping)


def end(connection: sa.Connection, digest: str) -> None:
    """Delete the session with this hash, if it exists."""
    connection.execute(sa.delete(console_sessions).where(console_sessions.c.hash == digest))
