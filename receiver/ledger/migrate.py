"""Create or upgrade a ledger's tables, and refuse an unknown schema. One process does it, the others wait.

Alembic is imported only to change tables, because the import costs more than the check.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from receiver.domain.trouble import Trouble
from receiver.errors import NotStarted
from receiver.ledger.database import dialect
from receiver.ledger.database.engine import Ledger
from receiver.ledger.database.errors import LedgerUnavailable, remedy_for, with_remedy

# The newest revision in migrations/versions; a test compares the two.
HEAD = "v12"
# Earlier revisions, which are upgraded to HEAD.
EARLIER = ("v10", "v11")

_LEAST_FREE = 1 << 20  # bytes without which SQLite can't open a database in WAL mode
_LOOK_EVERY = 0.5  # seconds between two attempts while waiting for a ledger

log = logging.getLogger("runhook.ledger")


class LedgerAway(NotStarted):
    """The ledger cannot be used now. Waiting may help."""


def ensure_schema(ledger: Ledger, *, create: bool = True) -> None:
    """Create or upgrade the tables. Raises NotStarted if the ledger cannot be used, or has an unknown schema.

    `create`: False to only check, before starting the processes that change the tables.
    """
    try:
        if not create and _has_no_file(ledger):
            return
        require_durability(ledger)
        if not _is_current(ledger, ledger.read(_revision)) and create:
            ledger.alter(lambda connection: _create(ledger, connection))
    except LedgerUnavailable as error:
        kind = LedgerAway if remedy_for(str(error)).waiting_helps else NotStarted
        raise kind(unusable(ledger, error)) from None


def _is_current(ledger: Ledger, revision: str | None) -> bool:
    """Return whether the ledger has this version's tables; False if it is empty or earlier. Raises NotStarted."""
    if revision not in (None, HEAD, *EARLIER):
        raise NotStarted(_of_another_schema(revision).at(ledger.where))
    return revision == HEAD


def await_schema(ledger: Ledger, patience: float, stop: Callable[[float], bool], *, create: bool = True) -> None:
    """Run `ensure_schema`, but wait up to `patience` seconds for an unreachable ledger, and log that once.

    `stop(seconds)`: waits at most that long; returns whether the process is stopping. Raises NotStarted.
    """
    until = time.monotonic() + patience
    said = False
    while True:
        try:
            return ensure_schema(ledger, create=create)
        except LedgerAway as error:
            if (left := until - time.monotonic()) <= 0:
                raise
            if not said:
                log.warning("%s; waiting for it, at most %.0f s", error, left)
            said = True
            if stop(_LOOK_EVERY):
                raise


def require_durability(ledger: Ledger) -> None:
    """Raise NotStarted if the ledger may lose what it has confirmed and the config does not accept that.

    Raises LedgerUnavailable.
    """
    if weakness := ledger.weakness():
        raise NotStarted(
            f"the ledger at {ledger.where} may lose what it has confirmed: {weakness}. Or accept that with"
            " ledger.accept_weaker_durability: true in the config"
        )


def unusable(ledger: Ledger, error: LedgerUnavailable) -> str:
    """Return in one line why the ledger cannot be used, and how to fix it."""
    # SQLite reports a full disk as an I/O error.
    reason = "the disk is full" if _disk_is_full(ledger) else with_remedy(str(error))
    return f"the ledger can't be used ({ledger.where}): {reason}"


def schema_trouble(ledger: Ledger, within: float | None = None) -> Trouble | None:
    """Return why this version cannot use the ledger as it is, or None. Changes nothing.

    `within`: as for `Ledger.read`. Raises LedgerUnavailable.
    """
    if _has_no_file(ledger):
        return Trouble(
            "the ledger does not exist yet",
            "start `runhook dev` or `runhook worker`, which create it, or set RUNHOOK_DATA or DATABASE_URL to another",
        )
    found, read_only = ledger.read(lambda connection: (_revision(connection), dialect.is_read_only(connection)), within)
    if read_only:
        return Trouble(
            "the database is read-only",
            "name the primary in DATABASE_URL, or set default_transaction_read_only to off for its user and database",
        )
    if found is None:
        return Trouble(
            "this database does not contain a ledger yet",
            "start `runhook worker`, which creates it, or set DATABASE_URL to another",
        )
    return None if found == HEAD else _of_another_schema(found)


def is_missing(ledger: Ledger) -> bool:
    """Whether the database has no ledger tables of any version. Raises LedgerUnavailable."""
    return _has_no_file(ledger) or ledger.read(_revision) is None


def _has_no_file(ledger: Ledger) -> bool:
    """Whether it is on SQLite and its file does not exist; a query would create the file."""
    return ledger.dialect == "sqlite" and not Path(str(ledger.url.database)).exists()


def _of_another_schema(revision: str | None) -> Trouble:
    what = f"the ledger's schema is {revision}, and this version of Runhook needs {HEAD}"
    if revision in EARLIER:
        return Trouble(what, "stop the processes of the previous version and start `runhook worker`, which upgrades it")
    return Trouble(
        what,
        "name a new or empty database with DATABASE_URL, or use the version of Runhook that created this one",
    )


def _disk_is_full(ledger: Ledger) -> bool:
    if ledger.dialect != "sqlite":
        return False
    try:
        return shutil.disk_usage(Path(str(ledger.url.database)).parent).free < _LEAST_FREE
    except OSError:
        return False


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _create(ledger: Ledger, connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    dialect.serialize(connection, "create the schema", patiently=True)
    before = _revision(connection)
    if _is_current(ledger, before):
        return  # another process has changed the tables meanwhile
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
        log.info("ledger.%s schema=%s database=%s", "upgraded" if before else "created", HEAD, ledger.where)
    except sa_exc.ProgrammingError as error:
        reason = with_remedy(str(error.orig).strip().splitlines()[0])
        raise NotStarted(f"cannot create or upgrade the ledger's tables: {reason}") from None
