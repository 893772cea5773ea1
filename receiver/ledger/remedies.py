"""What would be right where a database says what is wrong. Pure; the messages are PostgreSQL's and SQLite's own."""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Remedy(NamedTuple):
    """`words`: what a person can do. `waiting_helps`: whether it may mend itself, as while a server comes up."""

    words: str
    waiting_helps: bool


_REMEDIES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), Remedy(words, waiting_helps))
    for pattern, words, waiting_helps in (
        (r'database ".*" does not exist', "create it, or name the right one at the end of DATABASE_URL", False),
        (
            r"has the encoding SQL_ASCII",
            "make another with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL",
            False,
        ),
        (
            r'authentication failed|role ".*" (?:does not exist|is not permitted)|no password supplied|no pg_hba\.conf',
            "write the right user and password into DATABASE_URL: postgresql://user:password@host/name",
            False,
        ),
        (r"invalid connection option|invalid \S+ value", "correct what is after the ? in DATABASE_URL", False),
        (
            r"no schema has been selected to create in|permission denied for (?:schema|database)",
            "let the user of DATABASE_URL make tables: GRANT CREATE ON SCHEMA public TO that user",
            False,
        ),
        (
            r"(?:relation|table|index) \S+ already exists",
            "that is another program's: give the ledger a database of its own in DATABASE_URL",
            False,
        ),
        (
            r"file is not a database",
            "name another file in DATABASE_URL, one that SQLite has made or that is not there yet",
            False,
        ),
        (
            r"unable to open database file|can't be locked|readonly database",
            "DATABASE_URL must name a file that this user can write, in a folder where it can make files",
            True,
        ),
        (
            r"in a read-only transaction",
            "the database is read-only: name the primary in DATABASE_URL, or set default_transaction_read_only to off",
            True,
        ),
        (r"failed to resolve host", "is that the name of its host? it is in DATABASE_URL", True),
        (r"Connection refused", "no PostgreSQL listens there: start it, or correct DATABASE_URL", True),
    )
)


def remedy_for(reason: str) -> Remedy:
    """Return what helps against `reason`, why a ledger can't be used; without words where that is not known."""
    return next((remedy for pattern, remedy in _REMEDIES if pattern.search(reason)), Remedy("", True))


def with_remedy(reason: str) -> str:
    """Return `reason` with what helps against it."""
    words = remedy_for(reason).words
    return f"{reason}; {words}" if words else reason
