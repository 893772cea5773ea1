"""The ledger as commands use it: opened for one question or change, and one line when it can't be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from handlers.support.url import hide_password
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.migrate import ensure_schema, schema_trouble

T = TypeVar("T")


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
        raise NotStarted(f"the ledger can't be used: {error}") from None
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
