"""Do what comes due: retries, lapsed claims, lost wake-ups, overdue results, retention; index what runs say.

Several clocks may run. Whatever Redis has forgotten, the ledger still knows. A tick that finds nothing costs one query,
and every other one a request to Redis as well.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import redis

from receiver import reaper, wakeups
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery import backoff
from receiver.domain import poll_schedule
from receiver.domain.callback import CALLBACK
from receiver.domain.redaction import Redactor
from receiver.inbox.reader import InboxReader
from receiver.inbox.stream import spoilt
from receiver.ledger import (
    Connection,
    Ledger,
    LedgerUnavailable,
    actions,
    agenda,
    ahead,
    audit,
    dialect,
    heartbeats,
    retention,
    words,
)
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.ledger.deliveries.fair_queue import Rotation
from receiver.ledger.migrate import await_schema
from receiver.reconcile import poll_hints, poller
from receiver.reconcile.poller import Reconciler
from receiver.runtime.process import error_location
from receiver.runtime.redis_client import check_url, connect
from receiver.status import board
from receiver.telemetry.logs import Fields
from receiver.wakeups import cleanup

# Seconds between two checks of what is due, and the most while nothing is, nor will be before the next one.
TICK = 1.0
QUIET_TICK = 2.0
# Seconds between two checks of Redis, while the inbox is empty (whoever adds to it wakes the dispatcher): the inbox,
# what dead workers left in RQ's lists, and poll hints.
REDIS_EVERY = 4.0
# Seconds between two checks for results that no webhook has brought: after a hint, and otherwise.
HINTED_EVERY = 2.0
OVERDUE_EVERY = 6.0
# The same where no webhook is waited for, so that every result waits for such a check.
ALONE_EVERY = 1.0
# Seconds between two checks for workers that died on this machine, while none of them can hold anything.
IDLE_REAP_EVERY = 15.0
# Seconds between two sweeps of the records of dead workers, which hold up no work.
RECORDS_EVERY = 60.0
# Seconds between two checks of what rarely goes wrong, and between two clean-ups of what does no harm meanwhile.
SLOW_EVERY = 15.0
TIDY_EVERY = 60.0
# Seconds after which a long sweep, made in short steps, leaves the rest for the next time.
STEPS = 0.5
# Seconds of a tick in which words are indexed.
INDEX_FOR = 0.5
# Seconds that workers have, once the ledger is back, to renew their claims or record what has ended meanwhile.
PATIENCE = 6.0
# Seconds from which a check of the ledger means that it was away.
AWAY = 3.0
# Seconds that the ledger has to answer at the start, as for a worker.
START_WITHIN = 120.0

log = logging.getLogger("runhook.clock")


class Clock:
    """The clock of one process. `reap`: releases what dead workers held; returns how many there were. `give_up`: by
    sink, the seconds after which what waits behind an open breaker is dead. `redactor`: what is not indexed. `waits`:
    the longest that Runhook sets; None: times are not checked."""

    def __init__(
        self,
        ledger: Ledger,
        sinks: Sequence[str],
        connection: redis.Redis,
        retain: float | None,
        reconciler: Reconciler | None = None,
        reap: Callable[[], int] | None = None,
        give_up: Mapping[str, float] = {},
        redactor: Redactor | None = None,
        waits: ahead.LongestWaits | None = None,
    ) -> None:
        self._ledger = ledger
        self._sinks = sinks
        self._redis = connection
        self._retain = retain
        self._reconciler = reconciler
        self._reap_all = reap
        self._give_up = give_up
        self._redactor = redactor or Redactor([])
        self._waits = waits
        self._inbox = InboxReader(connection, "clock")
        self._queues = [wakeups.DISPATCH, *(wakeups.deliver_queue(sink) for sink in sinks)]
        # What the last checks found.
        self._agenda = agenda.UNKNOWN
        self._events_wait = False
        self._rarities = False  # in Redis
        self._hints = True
        self._rotations = {CALLBACK: Rotation()}  # of the one sink that has many lanes
        # Where the sweeps go on.
        self._swept_held = ""
        self._kept_after = retention.BEGINNING
        self._last: dict[str, float] = {}
        self._trouble: set[str] = set()
        self._bugs: dict[str, str] = {}  # by check: errors that are nobody's but ours, of the last tick
        self._ledger_away = float("-inf")  # when it last was, by time.monotonic()

    def run(self, stop: Callable[[float], bool]) -> None:
        """Tick until `stop(seconds)`, which waits that long at the most, is true."""
        while not stop(self._pause()):
            self.tick()

    def _pause(self) -> float:
        """Return the seconds until the next tick: more than TICK only when it would find nothing before."""
        if self._trouble or self._events_wait:
            return TICK
        return min(max(TICK, self._agenda.rest), QUIET_TICK)

    def tick(self) -> None:
        """Check everything once. Trouble is logged once and tried again at the next tick."""
        trouble: dict[str, str] = {}
        bugs: dict[str, str] = {}
        for check in (
            self.reap,
            self.read_agenda,
            self.due,
            self.operations,
            self.slow,
            self.tidy,
            self.check_redis,
            self.overdue,
            self.inbox,
            self.repair,
            self.words,
        ):
            if "redis" in trouble and check in (self.check_redis, self.inbox, self.repair):
                continue  # each would wait for a Redis that hangs, and what is due in the ledger would wait for them
            try:
                check()
            except LedgerUnavailable as error:
                trouble["ledger"] = str(error)
            except redis.RedisError as error:
                # A key that something else has written is no reason to stop the other checks of Redis.
                wrong = spoilt(error)
                trouble["inbox" if wrong else "redis"] = wrong or str(error) or type(error).__name__
            except Exception as error:
                bugs[check.__name__] = error_location(error)
                log.debug("clock.bug check=%s in full", check.__name__, exc_info=True)
        if "ledger" in trouble:
            self._ledger_away = time.monotonic()
        if trouble.keys() != self._trouble:  # a server that is away says so in several ways
            if trouble:
                log.warning("clock.trouble %s", Fields(trouble))
            else:
                log.warning("clock.well again")
        self._trouble = set(trouble)
        if bugs != self._bugs:
            for name, place in bugs.items():
                log.error("clock.bug check=%s error=%r: the other checks go on", name, place)
        self._bugs = bugs

    def reap(self) -> None:
        """Release what workers that died on this machine held. Not while something is away: each try would log it.

        A worker holds claims, which the agenda shows, or events of the inbox: seldom, where there are neither.
        """
        if self._reap_all is None or self._trouble:
            return
        if self._events_wait or self._agenda.rest < math.inf or self._every("reap", IDLE_REAP_EVERY):
            self._reap_all()

    def read_agenda(self) -> None:
        """See what there may be to do in the ledger: each of the next checks needs that."""
        started, self._agenda = time.monotonic(), agenda.UNKNOWN
        self._agenda = agenda.read(self._ledger)
        self._note_hang(started)

    def _note_hang(self, started: float) -> None:
        if time.monotonic() - started > AWAY:  # it hung, and has answered after all
            self._ledger_away = time.monotonic()

    def due(self) -> None:
        """Queue what waited long enough, take back what lapsed, and wake each sink that has something to send.

        Workers could not renew their claims while the ledger was away: they get PATIENCE, or what they have sent would
        be sent twice.
        """
        more = self._agenda.changes
        if not (more or self._agenda.queued):
            return
        started, now = time.monotonic(), self._ledger.now()
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
        ready = self._ledger.read(
            lambda connection: claims.sinks_due(connection, self._sinks, now, self._rotations), transaction=False
        )
        self._note_hang(started)
        wakeups.wake_sinks(self._redis, ready)

    def operations(self) -> None:
        """Make steps of the operations that are running, each in a short transaction."""
        began, more = time.monotonic(), self._agenda.operations
        while more:
            made = self._ledger.write(lambda connection: actions.step(connection, self._ledger.now()))
            wakeups.wake_sinks(self._redis, made.sinks)
            more = made.more and time.monotonic() - began < STEPS

    def check_redis(self) -> None:
        """See in one request whether events wait, and whether Redis has something that is rarely there.

        While there is trouble, in every tick: it would seem to be over in a tick without this check.
        """
        self._rarities = False
        if not (self._events_wait or self._trouble or self._every("redis", REDIS_EVERY)):
            return
        self._events_wait, self._rarities = False, True
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.exists(*cleanup.left_behind(self._queues), *poll_hints.KEYS)
            self._inbox.ask_waiting(pipeline)
            found, waiting = pipeline.execute(raise_on_error=False)
        self._rarities = found != 0
        self._hints = self._hints or self._rarities
        if isinstance(waiting, Exception):
            raise waiting
        self._events_wait = waiting > 0

    def inbox(self) -> None:
        """Wake the dispatcher when events wait and no wake-up is on its way."""
        if self._events_wait:
            wakeups.wake_dispatcher(self._redis)

    def repair(self) -> None:
        """Clear what killed workers left in RQ's lists."""
        if self._every("records", RECORDS_EVERY) or (
            self._rarities and cleanup.anything_left(self._redis, self._queues)
        ):
            cleanup.sweep(self._redis, self._queues)

    def slow(self) -> None:
        """Correct times written while the database's clock was ahead; queue held deliveries that were left behind; end
        what has waited too long behind an open breaker; remove what is past its retention."""
        if not self._every("slow", SLOW_EVERY):
            return
        if self._waits is not None:
            self._correct_times(self._waits)
        if self._ledger.read(lanes.any_shut):
            self._expire(self._ledger.now())
        self._sweep_held()
        if self._retain is not None and (
            self._every("retention", TIDY_EVERY) or self._kept_after != retention.BEGINNING
        ):
            self._remove_old(self._retain)

    def _correct_times(self, waits: ahead.LongestWaits) -> None:
        began, now = time.monotonic(), self._ledger.now()
        while self._ledger.read(lambda connection: ahead.any_ahead(connection, now, waits)):
            done = self._ledger.write(lambda connection: ahead.correct(connection, now, waits))
            log.warning(
                "clock.corrected deliveries=%d breakers=%d polls=%d reason=the database's clock was ahead", *done[:3]
            )
            if time.monotonic() - began > STEPS:
                return

    def tidy(self) -> None:
        """Remove old lines of the audit, old operations, and the heartbeats and inbox readers of dead processes; update
        the statistics of SQLite's planner."""
        if not self._every("tidy", TIDY_EVERY):
            return
        self._remove_told(self._ledger.now() - max(self._retain or 0.0, audit.KEPT_FOR))
        self._ledger.write(heartbeats.forget)
        self._ledger.alter(dialect.learn)
        board.forget(self._redis)
        self._inbox.tidy()

    def _sweep_held(self) -> None:
        began = time.monotonic()
        while True:
            _, self._swept_held = self._ledger.write(
                lambda connection: recovery.sweep_held(connection, self._ledger.now(), self._sinks, self._swept_held)
            )
            if not self._swept_held or time.monotonic() - began > STEPS:
                return

    def _remove_told(self, before: float) -> None:
        """Remove lines of the audit, and operations, that ended before then."""
        self._ledger.write(lambda connection: audit.remove(connection, before))
        self._ledger.write(lambda connection: actions.remove(connection, before))

    def _remove_old(self, retain: float) -> None:
        began, before, removed = time.monotonic(), self._ledger.now() - retain, 0
        while True:
            step = self._ledger.write(lambda connection: retention.remove(connection, before, self._kept_after))
            removed += step.events
            self._kept_after = step.after or retention.BEGINNING
            if step.after is None or time.monotonic() - began > STEPS:
                break
        quiet = self._ledger.write(lambda connection: retention.remove_lanes(connection, before))
        if removed or quiet:
            log.info("clock.retention events=%d lanes=%d", removed, quiet)

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
        if self._reconciler is None:
            return
        usual = ALONE_EVERY if self._reconciler.alone else OVERDUE_EVERY
        if self._every("overdue", min(HINTED_EVERY, usual) if self._hints else usual):
            self._reconciler.tick(hints=self._hints)
            self._hints = False

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

    def _every(self, name: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._last.get(name, -seconds) < seconds:
            return False
        self._last[name] = now
        return True

    def close(self) -> None:
        """Close the connections to the ledger, Redis and Skyvern's API."""
        if self._reconciler is not None:
            self._reconciler.close()
        self._ledger.close()
        self._redis.close()


def build(settings: Settings, config: Config, stop: Callable[[float], bool], watch_back: float | None = None) -> Clock:
    """Return the clock for these settings. `stop`: as for `Clock.run`, while the ledger is waited for. `watch_back`:
    seconds that its first walk of each watched source goes back.

    Raises NotStarted when the ledger can't be used, or is not there within START_WITHIN.
    """
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    await_schema(ledger, START_WITHIN, stop)
    check_url(settings.redis_url)
    connection = connect(settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=1)
    reconciler = poller.build(settings, config, watch_back) if config.reconcile.enabled else None
    return Clock(
        ledger,
        config.destinations,
        connection,
        config.retention.events,
        reconciler,
        reap=partial(reaper.reap_all, settings),
        give_up={name: config.retry_of(name).give_up_after for name in config.destinations},
        redactor=Redactor(config.redact),
        waits=longest_waits(config),
    )


def longest_waits(config: Config) -> ahead.LongestWaits:
    """Return the longest waits that the config allows, a sink's Retry-After included."""
    policies = [config.retry_of(name) for name in config.destinations]
    attempt = max([backoff.RETRY_AFTER_CAP * 1.05, *(policy.max for policy in policies)])
    poll = max(poll_schedule.LONGEST_FIRST, config.reconcile.longest) * 1.25
    return ahead.LongestWaits(
        tuple(config.destinations), attempt, poll, max(config.reconcile.watch_every * 1.25, 3600.0)
    )
