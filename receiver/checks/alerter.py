"""Report what the checks find, and yesterday's results, to operators by the config's own sinks. The clock drives it.

A message goes straight to the sink, not by the ledger, whose failure is one of the problems. It is sent again until the
sink accepts it; one sink that fails does not hold up the others.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from handlers import registry
from handlers.contract import Notification, Sink, SinkError
from handlers.support.daemon_pool import in_thread
from receiver.checks import alerts, digest
from receiver.checks.alert_store import AlertStore, NotLeading
from receiver.checks.alerts import AlertState
from receiver.checks.registry import find
from receiver.checks.report import StatusReport
from receiver.checks.survey import survey
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery.sink_services import SourceServices
from receiver.domain.liveness import CLOCK
from receiver.errors import error_location
from receiver.ledger import Ledger, LedgerUnavailable

# Seconds between two rounds of checks.
EVERY: Final = 15.0
# Seconds after a failure until a sink is tried again.
AGAIN_AFTER: Final = 60.0
# Seconds that the ledger has to answer, and that one message may take; a sink that hangs is left behind.
LEDGER_WITHIN: Final = 10.0
SEND_WITHIN: Final = 45.0

log = logging.getLogger("runhook.alerts")


class Alerter:
    """The alerts of one clock. Only one clock at a time sends them."""

    def __init__(self, settings: Settings, config: Config) -> None:
        self._settings = settings
        self._config = config
        self._store = AlertStore(settings.redis_url)
        self._services = SourceServices(config, settings.skyvern_base_url)
        self._sinks: dict[str, Sink[Any]] = {}
        self._next_at: dict[str, float] = {}  # when a sink that failed is tried again, by time.monotonic()
        self._round: Future[None] | None = None
        self._round_at = float("-inf")
        public = f"{settings.public_url.rstrip('/')}/console" if settings.public_url and not config.server.admin else ""
        self._link = config.alerts.link or public

    def step(self) -> None:
        """Start a round of checks if it is time for one. Does not wait."""
        if self._round is not None and not self._round.done():
            return
        if time.monotonic() - self._round_at >= EVERY:
            self._round_at = time.monotonic()
            self._round = in_thread("alerts", self._check)

    def _check(self) -> None:
        try:
            report, now, config = survey(self._settings, LEDGER_WITHIN), time.time(), self._config.alerts
            state = self._store.take(None if report.ledger.trouble else _is_oldest_clock(report))
            report = replace(report, redis=replace(report.redis, alerts_failing=state.failing))
            state = alerts.observe(state, find(report), config.to, now)
            self._store.save(state)
            for sink in config.to:
                transitions = alerts.transitions(state, sink, now, config.after)
                if not transitions:
                    state = alerts.accepted(state, sink, transitions)
                elif (why := self._send(sink, alerts.notification(transitions, self._link))) is not None:
                    state = alerts.refused(state, sink, why) if why else alerts.accepted(state, sink, transitions)
                if config.digest:
                    state = self._digest(state, sink, now)
                self._store.save(state)
        except NotLeading:
            return
        except Exception as error:
            log.error("alerts.bug error=%r", error_location(error))
            log.debug("alerts.bug in full", exc_info=True)

    def _digest(self, state: AlertState, sink: str, now: float) -> AlertState:
        """Send yesterday's results, once a day. A new sink begins with tomorrow's digest."""
        today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        done = msgspec.structs.replace(state, digests={**state.digests, sink: f"{today:%Y-%m-%d}"})
        if state.digests.get(sink, "") >= f"{today:%Y-%m-%d}":
            return state
        if sink not in state.digests:
            return done
        ledger = Ledger(self._settings.database_url)
        try:
            notification = digest.read(ledger, today - timedelta(days=1), today, self._link)
        except LedgerUnavailable:
            return state
        finally:
            ledger.close()
        why = self._send(sink, notification)
        return state if why is None else alerts.refused(state, sink, why) if why else done

    def _send(self, sink: str, notification: Notification) -> str | None:
        """Send the notification. Returns "", or why the sink did not accept it; None if it is not time to try again."""
        if time.monotonic() < self._next_at.get(sink, 0.0):
            return None
        try:
            in_thread(f"notify-{sink}", lambda: self._sink(sink).notify(notification)).result(SEND_WITHIN)
            log.info("alerts.sent sink=%s kind=%s key=%s", sink, notification.kind, notification.key)
            return ""
        except SinkError as error:
            why = str(error)
        except TimeoutError:
            why = f"no response within {SEND_WITHIN:g} s"
        except Exception as error:  # noqa: BLE001 - a sink of a third party
            why = f"{type(error).__name__} in the sink's code"
        self._next_at[sink] = time.monotonic() + AGAIN_AFTER
        log.warning("alerts.failed sink=%s reason=%s", sink, why)
        return why

    def _sink(self, name: str) -> Sink[Any]:
        if name not in self._sinks:
            chosen = self._config.sinks[name]
            self._sinks[name] = registry.build(name, chosen.type, chosen.options, self._services)
        return self._sinks[name]

    def close(self) -> None:
        """Close the connections. A round that is not done is left behind."""
        self._store.close()
        if self._round is None or self._round.done():
            for sink in self._sinks.values():
                sink.close()
            self._services.close()


def _is_oldest_clock(report: StatusReport) -> bool:
    """Return whether no clock has run longer than this process: that one sends the alerts."""
    clocks = [each.beat for each in report.processes if each.alive and each.beat.role == CLOCK]
    oldest = min(clocks, key=lambda beat: (beat.started_at, beat.name), default=None)
    return oldest is None or (oldest.host, oldest.pid) == (socket.gethostname(), os.getpid())
