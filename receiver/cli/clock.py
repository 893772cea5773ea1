"""`runhook clock`: the process that does what comes due."""

from __future__ import annotations

import signal
import threading

from receiver.cli.options import ConfigFile, DataDirectory, load_config
from receiver.runtime.process import freeze_imports
from receiver.telemetry import logs


def clock(config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Run the clock: due retries, lapsed claims, lost wake-ups, old events. Several may run."""
    from receiver.clock import build

    logs.set_up()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    the_clock = build(*load_config(config, data))
    freeze_imports()
    try:
        the_clock.run(stopping.wait)
    finally:
        the_clock.close()
