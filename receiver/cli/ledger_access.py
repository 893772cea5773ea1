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
from receiver.ledger.migrate import ensure_schema, is_missing, require_durability, schema_trouble, unusable
from receiver.ledger.remedies import with_remedy

if TYPE_CHECKING:
    from receiver.config.models import Config

T = TypeVar("T")

# Seconds that the receiver's start waits for the ledger, without which it takes webhooks all the same.
PATIENCE: Final = 4.0


@contextmanager
def open_ledger(settings: Settings, *, tell: bool = False, make: bool = False) -> Iterator[Ledger]:
    """Open the ledger for the block. Raises NotStarted, from the block as well, when it can't be used.

    `tell`: write to standard error which one it is. `make`: make its tables, and say so, if there are none and an
    option or a variable names it. Else nothing is made: a command that was called in the wrong folder would read an
    empty ledger of its own.
    """
    ledger = Ledger(settings.database_url)
    try:
        trouble = schema_trouble(ledger)
        if trouble and make and settings.names_ledger and is_missing(ledger):
            ensure_schema(ledger)
            sys.stderr.write(f"runhook: there was no ledger: a new one is made: {where(settings)}\n")
        elif trouble:
            raise NotStarted(trouble.at(where(settings)))
        elif tell:
            sys.stderr.write(f"runhook: ledger: {where(settings)}\n")
        yield ledger
    except LedgerUnavailable as error:
        raise NotStarted(f"the ledger can't be used: {with_remedy(str(error))}") from None
    finally:
        ledger.close()


def where(settings: Settings) -> str:
    """Return which ledger is meant, without its password."""
    kind, slashes, path = settings.database_url.partition(":///")
    if kind.startswith("sqlite") and slashes:  # whose path may begin at the folder that the command was called in
        return f"{kind}:///{Path(path).absolute()}"
    return hide_password(settings.database_url)


def read_ledger(data: Path | None, query: Callable[[Connection], T], *, tell: bool | None) -> T:
    """Return what `query` finds. `data`: the data directory, if one was named. Raises NotStarted.

    `tell`: write to standard error which ledger is read; None: if that is a terminal. Once a command is enough.
    """
    with open_ledger(Settings.from_env(data=data), tell=sys.stderr.isatty() if tell is None else tell) as ledger:
        return ledger.read(query)


def warning_at_start(settings: Settings, config: Config) -> str:
    """Return in one line what a receiver can't do for now, for want of the ledger; "" when it can do everything.

    Webhooks are kept without it. That it has no tables yet is no news: the worker makes them. Raises NotStarted when
    it may lose what it has confirmed and nobody accepts that, and ConfigError for a wrong DATABASE_URL.
    """
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    if ledger.dialect == "sqlite" and not Path(str(ledger.url.database)).exists():
        return ""  # worker or clock make it

    def ask() -> str:
        try:
            require_durability(ledger)
            trouble = schema_trouble(ledger)
            if trouble is None or is_missing(ledger):
                return ""
            return f"{trouble.at(ledger.where)}. Webhooks are kept meanwhile; all else may fail"
        finally:
            ledger.close()

    try:
        # Looking up a name may take longer than any limit.
        return in_thread("ledger-at-start", ask).result(PATIENCE)
    except LedgerUnavailable as error:
        away = error
    except TimeoutError:
        away = LedgerUnavailable(f"no answer within {PATIENCE:g} s")
    return f"{unusable(ledger, away)}. Webhooks are kept meanwhile; the submit API answers 503"
