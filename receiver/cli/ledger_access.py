"""The ledger as commands use it: opened for one call, with a one-line error if it cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from handlers.support.daemon_pool import in_thread
from handlers.support.url import hide_password
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.database.errors import with_remedy
from receiver.ledger.migrate import ensure_schema, is_missing, require_durability, schema_trouble, unusable

if TYPE_CHECKING:
    from receiver.config.models import Config

# Seconds that the receiver's start waits for the ledger; it accepts webhooks without it.
PATIENCE: Final = 4.0


@contextmanager
def open_ledger(settings: Settings, *, announce: bool = False, create: bool = False) -> Iterator[Ledger]:
    """Open the ledger for the block. Raises NotStarted, from the block too, if it cannot be used.

    `announce`: print to standard error which one it is. `create`: create its tables if they are missing and an option
    or a variable names it; else a command in the wrong folder would read an empty ledger of its own.
    """
    ledger = Ledger(settings.database_url)
    try:
        trouble = schema_trouble(ledger)
        if trouble and create and settings.names_ledger and is_missing(ledger):
            ensure_schema(ledger)
            sys.stderr.write(f"runhook: new ledger created: {where(settings)}\n")
        elif trouble:
            raise NotStarted(trouble.at(where(settings)))
        elif announce:
            sys.stderr.write(f"runhook: ledger: {where(settings)}\n")
        yield ledger
    except LedgerUnavailable as error:
        raise NotStarted(f"ledger unavailable: {with_remedy(str(error))}") from None
    finally:
        ledger.close()


def where(settings: Settings) -> str:
    """Return the address of the ledger, without its password."""
    kind, slashes, path = settings.database_url.partition(":///")
    if kind.startswith("sqlite") and slashes:  # whose path may be relative to the working directory
        return f"{kind}:///{Path(path).absolute()}"
    return hide_password(settings.database_url)


def warning_at_start(settings: Settings, config: Config, patience: float = PATIENCE) -> str:
    """Return in one line what a receiver cannot do without the ledger; "" if it can do everything.

    Webhooks are stored without it. Missing tables are fine: the worker creates them. Raises NotStarted if the
    ledger may lose confirmed data and the config does not accept that, and ConfigError for a wrong DATABASE_URL.
    `patience`: seconds that the ledger has to respond.
    """
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    if ledger.dialect == "sqlite" and not Path(str(ledger.url.database)).exists():
        return ""  # the worker or the clock creates it

    def check() -> str:
        try:
            require_durability(ledger)
            trouble = schema_trouble(ledger)
            if trouble is None or is_missing(ledger):
                return ""
            return f"{trouble.at(ledger.where)}. Webhooks are stored; everything else may fail"
        finally:
            ledger.close()

    try:
        # Resolving a host name may take longer than any limit.
        return in_thread("ledger-at-start", check).result(patience)
    except LedgerUnavailable as error:
        problem = error
    except TimeoutError:
        problem = LedgerUnavailable(f"no response within {patience:g} s")
    return f"{unusable(ledger, problem)}. Webhooks are stored; the submit API responds 503"
