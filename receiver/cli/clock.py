"""`runhook clock`: the process that does what comes due."""

from __future__ import annotations

import time
from contextlib import ExitStack

from receiver.cli.options import ConfigFile, DataDirectory, WatchSince, load_config, parse_time
from receiver.runtime.data_folder import secure
from receiver.runtime.process import freeze_imports
from receiver.runtime.stop import StopRequests, stop_signals


def clock(since: WatchSince = "", config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Run the clock: retries, lapsed claims, polling, retention. Several may run."""
    from receiver.checks.heartbeat import Heartbeat
    from receiver.clock import build
    from receiver.config.loader import file_hash
    from receiver.domain.liveness import CLOCK
    from receiver.runtime.child import report_ready
    from receiver.runtime.reload import Reload, run_again

    stops, reload = StopRequests(), Reload(lambda: load_config(config, data))
    reload.wake = stops.wake
    with stop_signals(stops, reload.on_hangup), ExitStack() as stack:
        settings, loaded = load_config(config, data, alone=True)
        secure(settings.data)
        moment = parse_time(since)
        the_clock = build(settings, loaded, stops.wait, None if moment is None else time.time() - moment)
        stack.callback(the_clock.close)
        heartbeat = Heartbeat(settings, CLOCK, file_hash(settings.config), watched=True)
        stack.callback(heartbeat.stop)

        def stop(seconds: float) -> bool:
            heartbeat.step()
            return stops.wait(seconds) or reload.accept()

        freeze_imports()
        heartbeat.start()
        report_ready()
        the_clock.run(stop)
    if reload.accepted and not stops:
        run_again()
