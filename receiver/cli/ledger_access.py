"""The ledger as commands use it: opened for one question or change, and one line when it can't be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.migrate import ensure_schema

T = TypeVar("T")


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger for the block. Raises NotStarted, from the block as well, when it can't be used."""
    ledger = Ledger(settings.database_url)
    try:
        ensure_schema(ledger)
        yield ledger
    except LedgerUnavailable as error:
        raise NotStarted(f"the ledger can't be used: {error}") from None
    finally:
        ledger.close()


def read_ledger(data: Path | None, query: Callable[[Connection], T]) -> T:
    """Return what `query` finds. `data`: the data directory, if one was named. Raises NotStarted."""
    with open_ledger(Settings.from_env(data=data)) as ledger:
        return ledger.read(query)


def write_ledger(data: Path | None, change: Callable[[Connection], T]) -> T:
    """Make `change` in one transaction, and return its result. Raises NotStarted."""
    with open_ledger(Settings.from_env(data=data)) as ledger:
        return ledger.write(change)
