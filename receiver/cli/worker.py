"""`runhook worker`: dispatch and the sinks."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli.options import ConfigFile, DataDirectory, load_config
from receiver.runtime.data_folder import secure


def worker(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help='Serve only "dispatch" or this sink; repeatable.'),
    ] = None,
    stop_timeout: Annotated[
        float, typer.Option("--stop-timeout", min=0, help="Seconds that a stop waits for sends before it kills them.")
    ] = 20.0,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to wait at the start for Redis and the ledger.")
    ] = 120.0,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Run the worker: record the inbox's events in the ledger, and deliver them to sinks."""
    from receiver.runtime.reload import Reload, run_again
    from receiver.worker import plan, run

    settings, loaded = load_config(config, data, alone=True)
    secure(settings.data)
    reload = Reload(lambda: plan(load_config(config, data)[1], only or ()))
    code = run(settings, loaded, only=only or (), stop_timeout=stop_timeout, patience=patience, reload=reload)
    if reload.accepted:
        run_again()
    if code:
        raise typer.Exit(code)
