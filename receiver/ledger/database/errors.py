"""Define the ledger's errors, translate a driver's errors, and suggest fixes for what PostgreSQL and SQLite report.

Messages leave out statements and values, which contain payloads.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sqlalchemy import exc as sa_exc

from handlers.support.url import hide_secrets

# The last two: a prepared statement of the session is gone, or was prepared for a table that was altered since.
_RETRYABLE: Final = {"40P01", "40001", "26000", "0A000"}
_CANCELLED: Final = "57014"  # a statement that took too long
# Errors of the database, the session or the program, whatever the values are.
_OF_NO_VALUE: Final = (
    *(sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.InternalError, sa_exc.ProgrammingError),
    sa_exc.NotSupportedError,
)


class LedgerUnavailable(Exception):
    """The ledger cannot be used now (down, locked, full). Work pauses and is retried.

    Nothing was written, unless the connection broke during COMMIT: then the outcome is unknown.
    """


class OutcomeUnknown(LedgerUnavailable):
    """The connection broke during COMMIT, and the transaction must not run twice (`dialect.forbid_rerun`)."""

    def __init__(self) -> None:
        super().__init__("the ledger did not confirm the change: it may be recorded. Check before you repeat it")


class LedgerNotDurable(LedgerUnavailable):
    """The database may lose what it has confirmed. Nothing was written."""


class Outdated(Exception):
    """Rows that a transaction has read changed before it locked them: `Ledger.write` runs it again."""


class LedgerDataError(Exception):
    """The database refused a value. Nothing was written; the caller splits a batch to find the invalid value."""


def translated(error: Exception, url: str) -> LedgerUnavailable | LedgerDataError:
    """Return the ledger's error for a driver's error. `url`: of the database; its secrets are masked."""
    if isinstance(error, (sa_exc.DataError, sa_exc.StatementError)) and not isinstance(error, _OF_NO_VALUE):
        return LedgerDataError(type(error).__name__)
    original = getattr(error, "orig", None) or error
    return LedgerUnavailable(hide_secrets(first_line(original), url))


def is_worth_a_retry(error: Exception) -> bool:
    """Whether the same transaction may succeed on a retry."""
    return is_disconnect(error) or getattr(getattr(error, "orig", None), "sqlstate", None) in _RETRYABLE


def is_disconnect(error: Exception) -> bool:
    """Whether the connection broke, so that a COMMIT under way may have succeeded."""
    return isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated


def was_cancelled(error: Exception) -> bool:
    """Whether PostgreSQL cancelled a statement that took too long."""
    return isinstance(error, sa_exc.DBAPIError) and getattr(error.orig, "sqlstate", None) == _CANCELLED


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class Remedy(NamedTuple):
    """How to fix an error. `words`: for the operator. `waiting_helps`: it may recover, such as when a server starts."""

    words: str
    waiting_helps: bool


_REMEDIES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), Remedy(words, waiting_helps))
    for pattern, words, waiting_helps in (
        (r'database ".*" does not exist', "create it, or correct the name at the end of DATABASE_URL", False),
        (
            r"has the encoding SQL_ASCII",
            "create another with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0, and set it in DATABASE_URL",
            False,
        ),
        (
            r'authentication failed|role ".*" (?:does not exist|is not permitted)|no password supplied|no pg_hba\.conf',
            "correct the user and password in DATABASE_URL: postgresql://user:password@host/name",
            False,
        ),
        (
            r"invalid connection option|invalid \S+ value|bad value for",
            "correct the parameters after the ? in DATABASE_URL",
            False,
        ),
        (r"invalid port number", "correct the port in DATABASE_URL", False),
        (
            r"no schema has been selected to create in|permission denied for (?:schema|database)",
            "let the user of DATABASE_URL create tables: GRANT CREATE ON SCHEMA public TO that user",
            False,
        ),
        (
            r"(?:relation|table|index) \S+ already exists",
            "it belongs to another program: set a separate database for the ledger in DATABASE_URL",
            False,
        ),
        (
            r"file is not a database",
            "set DATABASE_URL to an SQLite file, or to a file that does not exist yet",
            False,
        ),
        (
            r"unable to open database file|can't be locked|readonly database",
            "DATABASE_URL must name a file that this user can write, in a folder where it can create files",
            True,
        ),
        (
            r"in a read-only transaction",
            "the database is read-only: name the primary in DATABASE_URL, or set default_transaction_read_only to off",
            True,
        ),
        (r"no such module: fts5", "use a Python whose SQLite has FTS5, or PostgreSQL", False),
        (r"failed to resolve host", "check the host name in DATABASE_URL", True),
        (r"Connection refused", "no PostgreSQL listens there: start it, or correct DATABASE_URL", True),
    )
)


def remedy_for(reason: str) -> Remedy:
    """Return the fix for `reason`, why a ledger cannot be used; without words if unknown."""
    return next((remedy for pattern, remedy in _REMEDIES if pattern.search(reason)), Remedy("", True))


def with_remedy(reason: str) -> str:
    """Return `reason` with its fix."""
    words = remedy_for(reason).words
    return f"{reason}; {words}" if words else reason
