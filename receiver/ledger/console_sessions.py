"""Who is signed in to the console. The ledger has the hash of each session's token only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from receiver.ledger.schema import console_sessions


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """A person who is signed in. `hash`: SHA-256 of the token. `credential`: of what the password was checked against:
    with another password the session ends. Times: seconds since the epoch, by the database's clock."""

    hash: str = field(repr=False)
    user: str
    credential: str = field(repr=False)
    created_at: float
    expires_at: float


def create(connection: sa.Connection, session: ConsoleSession) -> None:
    """Insert a session, and delete those that have expired."""
    connection.execute(sa.delete(console_sessions).where(console_sessions.c.expires_at < session.created_at))
    connection.execute(sa.insert(console_sessions).values(asdict(session)))


def find(connection: sa.Connection, digest: str, now: float) -> ConsoleSession | None:
    """Return the session with this hash that has not expired."""
    it = console_sessions.c
    row = connection.execute(sa.select(console_sessions).where(it.hash == digest, it.expires_at > now)).first()
    return None if row is None else ConsoleSession(**row._mapping)


def end(connection: sa.Connection, digest: str) -> None:
    """Delete the session with this hash, if there is one."""
    connection.execute(sa.delete(console_sessions).where(console_sessions.c.hash == digest))
