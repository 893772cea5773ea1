"""`runhook ledger`: move the ledger to another database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from handlers.support.url import hide_password
from receiver.cli.ledger_access import open_ledger, where
from receiver.cli.options import DataDirectory, new_app
from receiver.cli.output import out, progress
from receiver.cli.profiles import here_only
from receiver.config.settings import Settings
from receiver.errors import ConfigError, NotStarted, RunhookError, UsageError
from receiver.ledger import Ledger
from receiver.ledger.database.copying import copy, count
from receiver.ledger.database.errors import LedgerDataError, LedgerUnavailable
from receiver.ledger.migrate import ensure_schema, unusable

app = new_app()


@app.callback()
def ledger() -> None:
    """Move the ledger to another database."""


@contextmanager
def _target(url: str) -> Iterator[Ledger]:
    """Open the ledger at `url`, and explain in the option's words why it cannot be used."""
    try:
        target = Ledger(url)
    except ConfigError as error:
        raise UsageError("--to: " + str(error).removeprefix("DATABASE_URL: ")) from None
    try:
        yield target
    except NotStarted as error:
        raise NotStarted(str(error).replace("DATABASE_URL", "--to")) from None
    except LedgerUnavailable as error:
        raise NotStarted(f"nothing was copied: {unusable(target, error)}".replace("DATABASE_URL", "--to")) from None
    except LedgerDataError as error:
        raise RunhookError(f"nothing was copied: {target.where} cannot store a value ({error})") from None
    finally:
        target.close()


@app.command("copy")
@here_only
def copy_(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="Empty database, such as postgresql://…/runhook.")],
    data: DataDirectory = None,
) -> None:
    """Copy the ledger into an empty database, while all processes are stopped. The old ledger stays as it is."""
    settings = Settings.from_env(data=data)
    with open_ledger(settings, announce=True) as source, _target(to) as target:
        if target.url == source.url:
            raise UsageError("--to: this is the ledger itself; name another database")
        ensure_schema(target)
        with progress("Copying rows", count(source)) as copied:
            counts = copy(source, target, copied)
    for name, rows in counts.items():
        if rows:
            out().print(f"{rows:>10,} {name}")
    out().print(
        f"Copied to {hide_password(to)} and compared: all {sum(counts.values()):,} rows are the same. Next: set "
        "DATABASE_URL to it on every host, start the processes, and run `runhook reconcile --since 1d --import --now` "
        "to fetch the results of runs that ended in the meantime. "
        f"The old ledger, {where(settings)}, was not changed: keep it until then, and start no process with it."
    )
