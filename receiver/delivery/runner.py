"""Deliver to one sink: hold what this process has claimed, send it in threads, settle what has ended, claim more.

    room, take   the dispatcher of the process records new deliveries as claimed, and hands them over
    poke         the ledger may have something due, which is claimed when there is room
    held         the claims that the process renews

A sender settles its own task if no other work is pending. Otherwise it wakes the runner's thread, which settles all
ended tasks in one transaction, claims more, and gives up overdue sends. The thread of such a send is left behind.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

import redis

from handlers import Sink, SinkOptions, Unavailable, registry
from handlers.support.daemon_pool import DaemonPool, LeftBehind
from receiver.config.destinations import RetryPolicy
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery.callback_sink import CallbackSink
from receiver.delivery.claim_budget import MOST_BYTES, ClaimBudget
from receiver.delivery.held_claims import HeldClaims
from receiver.delivery.send_task import send
from receiver.delivery.settlement import Settlement
from receiver.delivery.sink_services import SourceServices
from receiver.domain.callback import CALLBACK
from receiver.errors import error_location
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed, load_bodies
from receiver.ledger.deliveries.claims import Claims
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.runtime.background import start_thread
from receiver.runtime.outage import Pause
from receiver.runtime.throttle import SharedRate
from receiver.telemetry.logs import Fields
from receiver.telemetry.workers import WorkerCounter

# Batches under way, of a sink that takes many deliveries at once.
BATCHES: Final = 2
# Seconds that a settlement waits for other sends that are under way.
GATHER: Final = 0.01
# Seconds that a send may overrun its sink's own time-out before it is given up.
GRACE: Final = 2.0
# Seconds of errors in a row after which a runner gives up. Two heartbeats report them.
FAILS_FOR: Final = 30.0
# Sends left behind that still hang, for each place, after which a runner gives up.
WORN_OUT: Final = 4

log = logging.getLogger("runhook.deliver")


class SinkRunner:
    """Delivers to one sink in the worker process `owner`. Safe to call from any thread.

    `ledger` and `connection` belong to the process, which closes them; it also renews the claims on `held()`, and
    flushes the `counter`. `fails_for`: seconds of errors in a row, other than an unavailable ledger, after which it
    gives up, as after too many hung sends: `gave_up` says why, and a fresh process should replace this one.
    `concurrency`: sends under way at a time, in this process. `lane_limit`: how many of one lane, for a sink that has
    many. `on_due`: called with the sinks whose waiting deliveries a settlement has queued. `redact`: paths to mask in
    servers' responses.
    """

    def __init__(
        self,
        ledger: Ledger,
        sink: Sink[SinkOptions],
        retry: RetryPolicy,
        concurrency: int,
        connection: redis.Redis,
        owner: str,
        *,
        rate: SharedRate | None = None,
        lane_limit: int | None = None,
        on_due: Callable[[Collection[str]], None] = lambda _sinks: None,
        redact: Sequence[str] = (),
        fails_for: float = FAILS_FOR,
    ) -> None:
        self.name = sink.name
        self.owner = owner
        self._ledger = ledger
        self._sink = sink
        self._retry = retry
        self._rate = rate
        self._lane_limit = lane_limit
        self._on_due = on_due
        self._fails_for = fails_for
        self.trouble = ""  # the error of the last turn of its thread, other than an unavailable ledger
        self.gave_up = ""
        self._many = sink.batch_size > 1
        self._places = min(concurrency, BATCHES) if self._many else concurrency
        self._batch = max(sink.batch_size, 1)
        self._held = HeldClaims(self._batch)
        self._rotation = Rotation()
        self._budget = ClaimBudget(self._places * self._batch, rated=bool(rate), many_lanes=bool(lane_limit))
        self._limit = sink.options.timeout + (2 * GRACE if self._many else GRACE)
        self._threads = DaemonPool(self._places, f"send-{sink.name}")
        self.counter = WorkerCounter(connection)
        self._settlement = Settlement(sink.name, retry, owner, self.counter, redact)
        self._pause = Pause(log, "deliver")
        self._settling = threading.Lock()
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()  # each one wakes the runner's thread
        self._dormant = False  # the runner's thread sleeps until it is woken
        self._poked = True  # the ledger may have something due
        self._claiming = False
        self._stopping = threading.Event()
        self._stopped = threading.Event()

    # --- What the process and the dispatcher call

    def start(self) -> None:
        """Start the thread that claims and settles. Sender threads start on demand."""
        start_thread(f"deliver-{self.name}", self._work)

    def room(self) -> int:
        """Return how many new deliveries may be recorded as claimed by this runner now.

        None for a sink whose rate or lanes are counted at each claim, nor while older deliveries may be due.
        """
        if self._rate or self._lane_limit or self._poked or self._stopping.is_set():
            return 0
        return self._budget.free(*self._held.size(), time.monotonic())

    def take(self, claimed: Sequence[Claimed]) -> None:
        """Send deliveries that a committed transaction has claimed for this runner; after a stop, hand them back."""
        if not self._held.add(claimed):
            with suppress(LedgerUnavailable):  # else they lapse
                self._settlement.settle(self._ledger, [], claimed)
            return
        for _ in range(0, len(claimed), self._batch):
            self._threads.submit(self._send_next)
        if self._dormant:  # it must know when the next send is overdue
            self._wake()

    def poke(self) -> None:
        """Look for due deliveries in the ledger as soon as there is room for them."""
        if not self._poked:
            self._poked = True
            self._wake()

    def held(self) -> list[Claimed]:
        """Return the claimed deliveries that are not settled."""
        return self._held.all()

    @property
    def idle(self) -> bool:
        """Whether no delivery is claimed, and none is known to be due."""
        return not (self._held or self._poked or self._claiming)

    def stop(self) -> None:
        """Stop claiming, and hand back deliveries that have not started. Running sends end and are settled."""
        self._held.close()  # before the thread may end: nothing is added then
        self._stopping.set()
        self._wake()

    def join(self, until: float) -> bool:
        """Wait after `stop` until everything is settled, until `until` (time.monotonic()) at most. Return whether."""
        seconds = min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)
        return self._stopped.wait(seconds) and not self.gave_up

    def close(self) -> None:
        """End idle threads and close the sink. Leaves the ledger and Redis open."""
        self._threads.close()
        self._sink.close()

    # --- Senders

    def _send_next(self) -> None:
        """In a thread: send the longest waiting deliveries, and settle them if no other work is pending."""
        task = self._held.begin(time.monotonic(), self._ledger.known_now())
        if task is None:
            self._wake()  # deliveries that may no longer start are handed back
            return
        answers = send(self._sink, task.claimed, self._retry)
        if not self._held.end(task, answers, time.monotonic()):
            raise LeftBehind
        if any(isinstance(each, Unavailable) and not each.dependency for each in answers):
            self._budget.note_trouble(time.monotonic())
            self._held.withdraw()  # else what waits spends its attempts before the breaker opens
        if not self._work_pending():
            with suppress(Exception):  # the runner's thread tries it again, and reports the error
                self._settle()
        if self._work_pending() or self._held.ended or self._held.unstarted:
            self._wake()

    def _work_pending(self) -> bool:
        """Return whether the runner's thread is needed, or can settle several tasks at once."""
        return bool(self._held.waiting or self._held.running or self._poked or self._stopping.is_set())

    # --- The thread that claims, and settles what the senders leave

    def _wake(self) -> None:
        self._wakes.put(None)

    def _work(self) -> None:
        failing_since = math.inf
        while not self._stopping.is_set() or self._held:
            self._sleep()
            self._give_up_overdue()
            try:
                self._settle()
                self._claim()
                self._pause.end()
                self.trouble, failing_since = "", math.inf
                continue
            except LedgerUnavailable as error:
                fields = Fields(sink=self.name, ledger=error, held=len(self._held.all()))
            except Exception as error:  # a bug, which may come of what this process holds
                self.trouble = error_location(error)
                failing_since = min(failing_since, time.monotonic())
                if time.monotonic() - failing_since >= self._fails_for:
                    self._give_up(f"could not be served for {self._fails_for:.0f} s: {self.trouble}")
                    break
                log.debug("deliver.paused sink=%s in full", self.name, exc_info=True)
                fields = Fields(sink=self.name, error=self.trouble)
            self._pause.wait(fields, lambda: False)
            self._wake()
        self._stopped.set()

    def _give_up(self, why: str) -> None:
        self.gave_up = f"the sink {self.name} {why}"
        self.stop()

    def _sleep(self) -> None:
        """Wait until a claim is due, a send is overdue, or a thread wakes this one. Other sends get a moment to end."""
        self._dormant = True  # before it looks at what is held: a delivery that comes later wakes it
        now = time.monotonic()
        overdue_at = self._held.oldest_start(now) + self._limit if self._held else math.inf
        unsettled = self._held.ended or self._held.unstarted
        until = now if unsettled else min(overdue_at, self._claim_at(now))
        self._dormant = until == math.inf
        with suppress(queue.Empty):
            self._wakes.get(timeout=None if self._dormant else max(0.0, until - now))
            if self._held.ended and self._held.running:
                time.sleep(GATHER)
            while True:
                self._wakes.get_nowait()

    def _give_up_overdue(self) -> None:
        now, overdue = time.monotonic(), False
        for task in self._held.overdue(now - self._limit):
            answer = Unavailable(f"the send did not end within {self._sink.options.timeout:g} s")
            if self._held.end(task, [answer] * len(task.claimed), now):
                self._threads.abandon()
                overdue = True
        if overdue:  # the threads that were to send what waits may all be left behind
            self._budget.note_trouble(now)
            self._held.withdraw()
        if (hung := self._threads.abandoned) > WORN_OUT * self._places and not self.gave_up:
            self._give_up(f"left {hung} hung sends behind")

    def _settle(self) -> None:
        """Settle what has ended and hand back what will not start. Both stay held until that is committed."""
        with self._settling:
            ended, unstarted = self._held.to_settle()
            if not ended and not unstarted:
                return
            sinks, paused = self._settlement.settle(self._ledger, ended, unstarted)
            if paused:
                self._held.withdraw()
            for task in ended:
                self._budget.note_send(task.seconds)
            probed = any(each.probe for task in ended for each in task.claimed)
            # What is handed back is due again; a lane that has a free place, or was probed, may have more.
            if unstarted or probed or self._lane_limit:
                self._poked = True
            self._held.forget(ended, unstarted)
        if sinks:
            self._on_due(sinks)

    def _claim(self) -> None:
        """Claim and start what is due, if there is room. Raises LedgerUnavailable."""
        now = time.monotonic()
        if now < self._claim_at(now):
            return
        self._claiming = True
        self._poked = False
        self._budget.note_claim(now)
        more = True  # until the ledger has answered
        try:
            claimed = self._claim_due(now)
            more = not claimed.all_due
            if claimed:
                self.take(self._loaded(claimed))
        finally:
            if more:
                self._poked = True
            self._claiming = False

    def _claim_due(self, now: float) -> Claims:
        """Claim due deliveries: as many as the budget, the rate and the lanes allow."""
        count, weight = self._held.size()
        limit, many = self._budget.free(count, weight, now), None
        if self._lane_limit:
            held = self._held.all()
            of_lanes, probing = Counter(each.lane for each in held), sum(each.probe for each in held)
            many = ManyLanes(self._places, self._lane_limit, of_lanes, probing, self._rotation)
        if self._rate:
            limit = self._allowed(self._rate, limit)
        if not limit:
            return Claims()  # the process pokes once a second
        claimed: Claims | None = None

        def work(connection: Connection) -> Claims:
            nonlocal claimed
            given = (connection, self.name, limit, self.owner, self._ledger.now())
            claimed = claims.claim(*given, most_bytes=MOST_BYTES - weight, many=many, earlier=claimed)
            return claimed

        return self._ledger.write(work)

    def _allowed(self, rate: SharedRate, most: int) -> int:
        """Return how many that are due, up to `most`, the rate allows: none while Redis, which counts it, is down."""
        now = self._ledger.now()
        due = self._ledger.read(lambda it: claims.count_due(it, self.name, most, now), transaction=False)
        try:
            return rate.take(due) if due else 0  # what is not sent must not count
        except redis.RedisError:
            return 0

    def _loaded(self, claimed: Sequence[Claimed]) -> Sequence[Claimed]:
        """Load the bodies of what was claimed, which is renewed meanwhile. It is handed back if that fails."""
        self._held.load(claimed)
        found: Sequence[Claimed] = ()
        try:
            found = self._ledger.read(lambda connection: load_bodies(connection, claimed), transaction=False)
        finally:
            self._held.withdraw(set(claimed).difference(found))
        return found

    def _claim_at(self, now: float) -> float:
        """Return when to claim, by time.monotonic(): infinite for not before a send ends or another thread pokes."""
        if not self._poked or self._stopping.is_set():
            return math.inf
        return self._budget.claims_at(*self._held.size(), now, waiting=bool(self._held.waiting))


def build(
    settings: Settings,
    config: Config,
    name: str,
    owner: str,
    ledger: Ledger,
    connection: redis.Redis,
    on_due: Callable[[Collection[str]], None] = lambda _sinks: None,
) -> SinkRunner:
    """Return the runner of sink `name` in the worker process `owner`. It opens nothing before its first send."""
    services = SourceServices(config, settings.skyvern_base_url)
    sink: Sink[Any]
    if name == CALLBACK:
        callbacks = config.callbacks
        options, lookup = SinkOptions(timeout=callbacks.timeout), Ledger(settings.database_url)
        sink = CallbackSink(options, services, lookup, settings.master_secret, config.allowed_addresses)
        retry, concurrency, rate, lane_limit = callbacks.retry, callbacks.concurrency, None, callbacks.per_origin
    else:
        chosen = config.sinks[name]
        sink = registry.build(name, chosen.type, chosen.options, services)
        rate = SharedRate(connection, name, chosen.rate_limit) if chosen.rate_limit else None
        retry, concurrency, lane_limit = chosen.retry, chosen.concurrency, None
    return SinkRunner(
        *(ledger, sink, retry, concurrency, connection, owner),
        rate=rate,
        lane_limit=lane_limit,
        on_due=on_due,
        redact=config.redact,
    )
