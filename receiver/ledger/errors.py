"""What the ledger raises, and what it tells of a driver's error: no statement and no values, which hold payloads."""

from __future__ import annotations

from typing import Final

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
