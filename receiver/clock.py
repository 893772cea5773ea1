"""Do what comes due: retries, lapsed claims, overdue results, operations, retention, the search index, alerts.

Several clocks may run. A tick that finds nothing costs one query. The workers find what it queues.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from receiver.checks.alerter import Alerter
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery import backoff
from receiver.domain import poll_schedule
from receiver.domain.redaction import Redactor
from receiver.errors import error_location
from receiver.ledger import Connection, Ledger, LedgerUnavailable, agenda, heartbeats, operations, retention
from receiver.ledger.access import audit
from receiver.ledger.database import clock_correction, dialect
from receiver.ledger.deliveries import lanes, recovery
from receiver.ledger.lists import words
from receiver.ledger.migrate import await_schema
from receiver.reconcile import poller
from receiver.reconcile.poller import Reconciler
from receiver.runtime.redis_client import check_url
from receiver.telemetry.logs import Fields

# Seconds between two checks, and the maximum while nothing comes due before the next one.
TICK = 1.0
QUIET_TICK = 2.0
# Seconds between two looks for hints in Redis, which are rare.
HINTS_EVERY = 4.0
# Seconds between two checks for rare problems, and between two clean-ups, which are not urgent.
SLOW_EVERY = 15.0
TIDY_EVERY = 60.0
# Seconds after which a long sweep, made in short steps, leaves the rest for the next time.
STEPS = 0.5
# Seconds of a tick in which words are indexed.
INDEX_FOR = 0.5
# Seconds that workers have, after the ledger was unavailable, to renew their claims or record attempts that have ended.
PATIENCE = 6.0
# Seconds after which a slow check means that the ledger was unavailable. If the ledger's time gains as many on the
# monotonic clock between two checks, the host slept or a clock was set.
AWAY = 3.0
# Maximum seconds to wait for the ledger at the start, as for a worker.
START_WITHIN = 120.0
# What is removed by age: the step, and the seconds between two sweeps. They are rare where they read kept rows again.
_RETENTION: Final[dict[str, tuple[Callable[..., retention.Removed], float]]] = {
    "events": (retention.remove, TIDY_EVERY),
    "submissions": (retention.remove_submissions, 3600.0),
    "runs": (retention.remove_idle_runs, 3600.0),
}

# The checks of a tick, in order; each is a method.
_CHECKS = ("read_agenda", "due", "operations", "slow", "tidy", "overdue", "words", "alerts")

log = logging.getLogger("runhook.clock")


class Clock:
    """The clock of one process. `sinks`: those of the config. `retain`, `retain_submissions`: seconds that events, and
    ended submissions without events, are kept; None: forever.

    `give_up`: seconds by sink after which deliveries behind an open breaker are dead. `redactor`: masks values in the
    index. `waits`: the longest waits that Runhook sets; None: times are not checked.
    """

    def __init__(
        self,
        ledger: Ledger,
        sinks: Sequence[str],
        retain: float | None,
        retain_submissions: float | None = None,
        reconciler: Reconciler | None = None,
        give_up: Mapping[str, float] = {},
        redactor: Redactor | None = None,
        waits: clock_correction.LongestWaits | None = None,
        alerter: Alerter | None = None,
    ) -> None:
        self._ledger = ledger
        self._sinks = sinks
        self._retain = {"events": retain, "submissions": retain_submissions, "runs": retain_submissions}
        self._reconciler = reconciler
        self._give_up = give_up
        self._redactor = redactor or Redactor([])
        self._waits = waits
        self._alerter = alerter
        self._agenda = agenda.UNKNOWN  # what the last check found
        # Where the sweeps continue.
        self._swept_held = ""
        self._kept_after: dict[str, retention.Place] = {}
        self._last: dict[str, float] = {}
        self._failed: dict[str, float] = {}  # when a step last failed, by operation
        self._trouble: set[str] = set()
        self._bugs: dict[str, str] = {}  # errors of the last tick that are bugs of Runhook, by check
        self._ledger_away = float("-inf")  # when it last was, or its time last jumped, by time.monotonic()
        self._ahead = ledger.known_now() - time.monotonic()  # the ledger's time minus this, at the last check

    def run(self, stop: Callable[[float], bool]) -> None:
        """Tick until `stop(seconds)`, which waits at most that long, is true."""
        while not stop(self._pause()):
            self.tick()

    def _pause(self) -> float:
        """Return the seconds until the next tick: more than TICK only when it would find nothing before."""
        if self._trouble:
            return TICK
        return min(max(TICK, self._agenda.rest), QUIET_TICK)

    def tick(self) -> None:
        """Check everything once. Trouble is logged once and tried again at the next tick."""
        trouble: dict[str, str] = {}
        bugs: dict[str, str] = {}
        for check in _CHECKS:
            try:
                getattr(self, check)()
            except LedgerUnavailable as error:
                trouble["ledger"] = str(error)
                self._ledger_away = time.monotonic()  # which the next check must know
            except Exception as error:
                bugs[check] = error_location(error)
                log.debug("clock.bug check=%s in full", check, exc_info=True)
        if trouble.keys() != self._trouble:  # an unavailable server causes various errors
            if trouble:
                log.warning("clock.trouble %s", Fields(trouble))
            else:
                log.warning("clock.recovered")
        self._trouble = set(trouble)
        if bugs != self._bugs:
            for name, place in bugs.items():
                log.error("clock.bug check=%s error=%r: the other checks continue", name, place)
        self._bugs = bugs

    def read_agenda(self) -> None:
        """See what there may be to do in the ledger: each of the next checks needs that."""
        started, self._agenda = time.monotonic(), agenda.UNKNOWN
        self._agenda = agenda.read(self._ledger)
        self._note_hang(started)

    def _note_hang(self, started: float) -> None:
        if time.monotonic() - started > AWAY:  # it hung, and has answered after all
            self._ledger_away = time.monotonic()

    def due(self) -> None:
        """Queue what waited long enough, and take back what lapsed.

        Workers could not renew their claims while the ledger was unavailable or the host slept. They get PATIENCE to do
        so, or deliveries that they have sent would be sent twice.
        """
        started, now = time.monotonic(), self._ledger.now()
        if now - started > self._ahead + AWAY:
            self._ledger_away = started
        self._ahead = now - started
        more = self._agenda.changes
        if not more:
            return
        patient = started - self._ledger_away < PATIENCE

        def work(connection: Connection) -> tuple[int, int]:
            return 0 if patient else recovery.lapse_claims(connection, now), recovery.make_due(connection, now)

        while more:
            lapsed, queued = self._ledger.write(work)
            if lapsed:
                log.warning("clock.lapsed claims=%d", lapsed)
            if queued:
                log.debug("clock.due deliveries=%d", queued)
            more = queued == recovery.DUE_AT_ONCE and time.monotonic() - started < STEPS
        self._note_hang(started)

    def operations(self) -> None:
        """Run steps of the running operations, each in a short transaction. Operations that failed come last."""
        began, more = time.monotonic(), self._agenda.operations
        while more:
            more = False
            for each in sorted(self._ledger.read(operations.running), key=lambda it: self._failed.get(it, 0.0)):
                try:
                    due = self._ledger.write(partial(operations.step, operation_id=each, now=self._ledger.now()))
                except Exception:
                    self._failed[each] = time.monotonic()
                    raise
                more = more or due
            more = more and time.monotonic() - began < STEPS

    def slow(self) -> None:
        """Correct times written while the database's clock was ahead; queue held deliveries that were left behind; end
        what has waited too long behind an open breaker; remove what is past its retention."""
        if not self._is_time_for("slow", SLOW_EVERY):
            return
        if self._waits is not None:
            self._correct_times(self._waits)
        if self._ledger.read(lanes.any_shut):
            self._expire(self._ledger.now())
        self._sweep_held()
        for kind, (step, pause) in _RETENTION.items():
            retain = self._retain[kind]
            if retain is not None and (self._is_time_for(kind, pause) or self._kept_after.get(kind)):
                self._remove_old(kind, step, self._ledger.now() - retain)

    def _correct_times(self, waits: clock_correction.LongestWaits) -> None:
        began, now = time.monotonic(), self._ledger.now()
        while self._ledger.read(lambda connection: clock_correction.any_ahead(connection, now, waits)):
            done = self._ledger.write(lambda connection: clock_correction.correct(connection, now, waits))
            log.warning(
                "clock.corrected deliveries=%d breakers=%d polls=%d reason=the database's clock was ahead", *done[:3]
            )
            if time.monotonic() - began > STEPS:
                return

    def tidy(self) -> None:
        """Remove old lanes, lines of the audit, operations, and heartbeats of dead processes;
        update the statistics of SQLite's planner."""
        if not self._is_time_for("tidy", TIDY_EVERY):
            return
        now, retain = self._ledger.now(), self._retain["events"]
        if retain is not None:
            self._ledger.write(lambda connection: retention.remove_lanes(connection, now - retain))
        before = now - max(retain or 0.0, audit.KEPT_FOR)
        self._ledger.write(lambda connection: audit.remove(connection, before))
        self._ledger.write(lambda connection: operations.remove(connection, before))
        self._ledger.write(heartbeats.forget)
        self._ledger.alter(dialect.update_planner_statistics)

    def _sweep_held(self) -> None:
        began = time.monotonic()
        while True:
            _, self._swept_held = self._ledger.write(
                lambda connection: recovery.sweep_held(connection, self._ledger.now(), self._sinks, self._swept_held)
            )
            if not self._swept_held or time.monotonic() - began > STEPS:
                return

    def _remove_old(self, kind: str, step: Callable[..., retention.Removed], before: float) -> None:
        began, removed, more = time.monotonic(), 0, True
        while more:
            done = self._ledger.write(lambda connection: step(connection, before, self._kept_after.get(kind)))
            removed += done.rows
            self._kept_after[kind] = done.after
            more = done.after is not None and time.monotonic() - began <= STEPS
        if removed:
            log.info("clock.retention %s=%d", kind, removed)

    def _expire(self, now: float) -> None:
        """End what waits for sinks that are never there; a large backlog in several steps, and over several calls."""
        for sink, seconds in self._give_up.items():
            began = time.monotonic()
            step = partial(recovery.expire, sink=sink, seconds=seconds, now=now)
            while self._ledger.read(partial(recovery.any_expired, sink=sink, seconds=seconds, now=now)):
                ended = Counter(self._ledger.write(step))
                for lane, count in ended.items():
                    log.warning("clock.gave_up lane=%s deliveries=%d after=%.0f s", lane, count, seconds)
                if not ended or time.monotonic() - began > STEPS:
                    break  # another clock is at it, or the rest is for the next time

    def overdue(self) -> None:
        """Start polls for results that no webhook has brought."""
        if self._reconciler:
            self._reconciler.tick(hints=self._is_time_for("hints", HINTS_EVERY))

    def words(self) -> None:
        """Index the words of runs that changed, for INDEX_FOR at most.

        It rests after each batch as long as that took: others want the processors and the ledger.
        """
        began, more = time.monotonic(), self._agenda.words
        while more:
            started = time.monotonic()
            count = self._ledger.write(lambda connection: words.index(connection, self._redactor))
            ended = time.monotonic()
            log.debug("clock.indexed changes=%d", count)
            more = count >= words.BATCH and ended - began < INDEX_FOR
            self._agenda = self._agenda._replace(words=count >= words.BATCH)
            if more:
                time.sleep(min(ended - started, INDEX_FOR))

    def alerts(self) -> None:
        """Tell operators about problems."""
        if self._alerter is not None:
            self._alerter.step()

    def _is_time_for(self, name: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._last.get(name, -seconds) < seconds:
            return False
        self._last[name] = now
        return True

    def close(self) -> None:
        """Close the connections to the ledger, Skyvern's API and the sinks that get alerts."""
        if self._reconciler is not None:
            self._reconciler.close()
        if self._alerter is not None:
            self._alerter.close()
        self._ledger.close()


def build(settings: Settings, config: Config, stop: Callable[[float], bool], watch_back: float | None = None) -> Clock:
    """Return the clock for these settings. `stop`: as for `Clock.run`, while the ledger is waited for. `watch_back`:
    seconds that its first walk of each watched source goes back.

    Raises NotStarted when the ledger can't be used, or is not there within START_WITHIN.
    """
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    await_schema(ledger, START_WITHIN, stop)
    check_url(settings.redis_url)
    reconciler = poller.build(settings, config, watch_back) if config.reconcile.enabled else None
    return Clock(
        ledger,
        config.destinations,
        config.retention.events,
        config.retention.submissions or config.retention.events,
        reconciler,
        give_up={name: config.retry_of(name).give_up_after for name in config.destinations},
        redactor=Redactor(config.redact),
        waits=longest_waits(config),
        alerter=Alerter(settings, config) if config.alerts.to else None,
    )


def longest_waits(config: Config) -> clock_correction.LongestWaits:
    """Return the longest waits that the config allows, a sink's Retry-After included."""
    policies = [config.retry_of(name) for name in config.destinations]
    attempt = max([backoff.RETRY_AFTER_CAP * 1.05, *(policy.max for policy in policies)])
    poll = max(poll_schedule.LONGEST_FIRST, config.reconcile.longest) * 1.25
    return clock_correction.LongestWaits(
        tuple(config.destinations), attempt, poll, max(config.reconcile.watch_every * 1.25, 3600.0)
    )
