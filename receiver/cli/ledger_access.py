"""The ledger as commands use it: opened for one question or change, and one line when it can't be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from handlers.support.daemon_pool import in_thread
from handlers.support.url import hide_password
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.migrate import ensure_schema, require_durability, schema_trouble, unusable
from receiver.ledger.remedies import with_remedy

if TYPE_CHECKING:
    from receiver.config.models import Config

T = TypeVar("T")

# Seconds that the receiver's start waits for the ledger, without which it takes webhooks all the same.
PATIENCE: Final = 4.0


@contextmanager
def open_ledger(settings: Settings, *, make: bool = False) -> Iterator[Ledger]:
    """Open the ledger for the block. Raises NotStarted, from the block as well, when it can't be used.

    `make`: create or upgrade its tables if need be. Without it nothing is made: a command that was called in the wrong
    folder would else read an empty ledger of its own.
    """
    ledger = Ledger(settings.database_url)
    try:
        if make:
            ensure_schema(ledger)
        elif trouble := schema_trouble(ledger):
            raise NotStarted(f"{trouble} ({where(settings)})")
        yield ledger
    except LedgerUnavailable as error:
        raise NotStarted(f"the ledger can't be used: {with_remedy(str(error))}") from None
    finally:
        ledger.close()


def where(settings: Settings) -> str:
    """Return which ledger is meant, without its password."""
    return hide_password(settings.database_url)


def read_ledger(data: Path | None, query: Callable[[Connection], T], *, tell: bool = False) -> T:
    """Return what `query` finds. `data`: the data directory, if one was named. Raises NotStarted.

    `tell`: write to standard error which ledger is read.
    """
    settings = Settings.from_env(data=data)
    with open_ledger(settings) as ledger:
        if tell or sys.stderr.isatty():
            sys.stderr.write(f"runhook: ledger: {where(settings)}\n")
        return ledger.read(query)


def write_ledger(data: Path | None, change: Callable[[Connection], T]) -> T:
    """Make `change` in one transaction, and return its result. Raises NotStarted."""
    with open_ledger(Settings.from_env(data=data)) as ledger:
        return ledger.write(change)


def warning_at_start(settings: Settings, config: Config) -> str:
    """Return in one line what a receiver can't do for now, for want of the ledger; "" when it can do everything.

    Webhooks are kept without it. Raises NotStarted when it may lose what it has confirmed and nobody accepts that, and
    ConfigError for a wrong DATABASE_URL.
    """
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    if ledger.dialect == "sqlite" and not Path(str(ledger.url.database)).exists():
        return ""  # worker or clock make it

    def ask() -> None:
        try:
            require_durability(ledger)
            schema_trouble(ledger)
        finally:
            ledger.close()

    try:
        in_thread("ledger-at-start", ask).result(PATIENCE)  # looking up a name may take longer than any limit
    except LedgerUnavailable as error:
        away = error
    except TimeoutError:
        away = LedgerUnavailable(f"no answer within {PATIENCE:g} s")
    else:
        return ""
    return f"{unusable(ledger, away)}. Webhooks are kept meanwhile; the submit API answers 503"
