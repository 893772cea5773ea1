"""What the ledger raises, what it says of a driver's error (no statement and no values, which hold payloads), and how
to fix what PostgreSQL and SQLite report."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sqlalchemy import exc as sa_exc

from handlers.support.url import hide_secrets

# The last two: the session has forgotten what it had prepared, or prepared it for a table that was altered since.
_RETRYABLE: Final = {"40P01", "40001", "26000", "0A000"}
_CANCELLED: Final = "57014"  # a statement that took too long
# What is wrong with the database, the session or the program, whatever the values are.
_OF_NO_VALUE: Final = (
    *(sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.InternalError, sa_exc.ProgrammingError),
    sa_exc.NotSupportedError,
)


class LedgerUnavailable(Exception):
    """The ledger can't be used now (gone, locked, full). Nothing was written. Work pauses and is tried again."""


class LedgerNotDurable(LedgerUnavailable):
    """The database may lose what it has confirmed. Nothing was written."""


class Outdated(Exception):
    """What a transaction has read changed before it had its locks: `Ledger.write` rolls it back and runs it again."""


class LedgerDataError(Exception):
    """The database refused a value. Nothing was written; a batch is split to find the one that is to blame."""


def translated(error: Exception, url: str) -> LedgerUnavailable | LedgerDataError:
    """Return the ledger's own error for a driver's. `url`: of the database; its secrets are hidden."""
    if isinstance(error, (sa_exc.DataError, sa_exc.StatementError)) and not isinstance(error, _OF_NO_VALUE):
        return LedgerDataError(type(error).__name__)
    original = getattr(error, "orig", None) or error
    return LedgerUnavailable(hide_secrets(first_line(original), url))


def is_worth_a_retry(error: Exception) -> bool:
    """Whether the same transaction may succeed if it is run again."""
    if isinstance(error, sa_exc.DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _RETRYABLE
    return False


def was_cancelled(error: Exception) -> bool:
    """Whether PostgreSQL cancelled a statement that took too long."""
    return isinstance(error, sa_exc.DBAPIError) and getattr(error.orig, "sqlstate", None) == _CANCELLED


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type when there is none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class Remedy(NamedTuple):
    """`words`: what a person can do. `waiting_helps`: whether it may recover by waiting, as while a server starts."""

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
