"""`runhook clock`: what comes due."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.runtime.process import freeze_imports
from receiver.telemetry import logs


def clock(
    config: Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")] = None,
) -> None:
    """Run the clock: due retries, lapsed claims, lost wake-ups, old events. Several may run."""
    from receiver.clock import build

    logs.set_up()
    settings = Settings.from_env(config=config, data=data)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    the_clock = build(settings, load(settings.config, settings.environ))
    freeze_imports()
    try:
        the_clock.run(stopping.wait)
    finally:
        the_clock.close()
