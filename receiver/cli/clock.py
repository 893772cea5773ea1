"""`runhook clock`: the process that does what comes due."""

from __future__ import annotations

import signal
import threading
import time

from receiver.cli.options import ConfigFile, DataDirectory, WatchSince, load_config, parse_time
from receiver.runtime.data_folder import secure
from receiver.runtime.process import freeze_imports, hang_up


def clock(since: WatchSince = "", config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Run the clock: retries, lapsed claims, polling, retention. Several may run."""
    from receiver.clock import build
    from receiver.config.loader import file_hash
    from receiver.domain.liveness import CLOCK
    from receiver.runtime.child import say_working
    from receiver.status.heartbeat import Heartbeat

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, *hang_up()):
        signal.signal(number, lambda *_: stopping.set())
    settings, loaded = load_config(config, data, alone=True)
    secure(settings.data)
    moment = parse_time(since)
    the_clock = build(settings, loaded, stopping.wait, None if moment is None else time.time() - moment)
    heartbeat = Heartbeat(settings, CLOCK, file_hash(settings.config), watched=True)

    def stop(seconds: float) -> bool:
        heartbeat.step()
        return stopping.wait(seconds)

    freeze_imports()
    heartbeat.start()
    say_working()
    try:
        the_clock.run(stop)
    finally:
        heartbeat.stop()
        the_clock.close()
