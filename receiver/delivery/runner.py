"""Deliver to one sink: hold what this process has claimed, send it in threads, settle what has ended, claim more.

    room, take   the dispatcher of the process records new deliveries as claimed, and hands them over
    poke         the ledger may have something due, which is claimed when there is room
    owned        the claims that the process renews

One thread claims and settles; nothing else here asks the ledger. A retry frees its place: nothing sleeps. A send that
takes longer than its sink allows is given up, and its thread is left behind rather than waited for.
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
from receiver.delivery.owned import OwnedDeliveries
from receiver.delivery.room import Room, weight
from receiver.delivery.send_task import SendTask, send
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

    `ledger` and `connection` belong to the process, which closes them; it also renews the claims on `owned()`, and
    flushes the `counter`. `fails_for`: seconds of errors in a row, other than an unavailable ledger, after which it
    gives up, as after too many hung sends: `gave_up` says why, and a fresh process should replace this one.
    `concurrency`: sends under way at a time, in this process. `lane_limit`: how many of one lane, for a sink that has
    many. `on_due`: called, in the runner's thread, with the sinks whose held deliveries a settlement has queued.
    `redact`: paths to mask in servers' responses.
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
        self._owned = OwnedDeliveries(self._batch)
        self._rotation = Rotation()
        self._room = Room(self._places * self._batch, rated=rate is not None, many_lanes=lane_limit is not None)
        self._limit = sink.options.timeout + (2 * GRACE if self._many else GRACE)
        self._threads = DaemonPool(self._places, f"send-{sink.name}")
        self.counter = WorkerCounter(connection)
        self._settlement = Settlement(sink.name, retry, owner, self.counter, redact)
        self._pause = Pause(log, "deliver")
        # Ended tasks, and None to make the runner's thread look around.
        self._done: queue.SimpleQueue[SendTask | None] = queue.SimpleQueue()
        self._ended: list[SendTask] = []  # ended, and not settled
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
        return self._room.free(*self._owned.size(), time.monotonic())

    def take(self, claimed: Sequence[Claimed]) -> None:
        """Send deliveries that a committed transaction has claimed for this runner; after a stop, hand them back."""
        if not self._owned.add(claimed):
            with suppress(LedgerUnavailable):  # else they lapse
                self._settlement.settle(self._ledger, [], claimed)
            return
        self._done.put(None)  # its thread must know when the next send is overdue
        for _ in range(0, len(claimed), self._batch):
            self._threads.submit(self._send_next)

    def poke(self) -> None:
        """Look for due deliveries in the ledger as soon as there is room for them."""
        if not self._poked:
            self._poked = True
            self._done.put(None)

    def owned(self) -> list[Claimed]:
        """Return the claimed deliveries that are not settled."""
        return self._owned.all()

    @property
    def idle(self) -> bool:
        """Whether no delivery is claimed, and none is known to be due."""
        return not (self._owned or self._poked or self._claiming)

    def stop(self) -> None:
        """Stop claiming, and hand back deliveries that have not started. Running sends end and are settled."""
        self._owned.close()  # before the thread may end: nothing is added then
        self._stopping.set()
        self._done.put(None)

    def join(self, until: float) -> bool:
        """Wait after `stop` until everything is settled, until `until` (time.monotonic()) at most. Return whether."""
        return self._stopped.wait(max(0.0, until - time.monotonic())) and not self.gave_up

    def close(self) -> None:
        """End idle threads and close the sink. Leaves the ledger and Redis open."""
        self._threads.close()
        self._sink.close()

    # --- Senders

    def _send_next(self) -> None:
        """In a thread: send the longest waiting deliveries."""
        task = self._owned.begin(time.monotonic(), self._ledger.known_now())
        if task is None:
            self._done.put(None)  # deliveries that may no longer start are handed back
            return
        answers = send(self._sink, task.claimed, self._retry)
        if not self._owned.end(task):
            raise LeftBehind
        task.answers, task.seconds = answers, time.monotonic() - task.started
        if any(isinstance(each, Unavailable) and not each.dependency for each in answers):
            self._room.note_trouble(time.monotonic())
            self._owned.withdraw()  # else what waits spends its attempts before the breaker opens
        self._done.put(task)

    # --- The thread that claims and settles

    def _work(self) -> None:
        failing_since = math.inf
        while not self._stopping.is_set() or self._owned:
            self._collect()
            try:
                self._settle()
                self._claim()
                self._pause.end()
                self.trouble, failing_since = "", math.inf
            except LedgerUnavailable as error:
                fields = Fields(sink=self.name, ledger=error, unsettled=len(self._ended))
                self._pause.wait(fields, lambda: False)
            except Exception as error:  # a bug, which may come of what this process holds
                self.trouble = error_location(error)
                failing_since = min(failing_since, time.monotonic())
                if time.monotonic() - failing_since >= self._fails_for:
                    self._give_up(f"could not be served for {self._fails_for:.0f} s: {self.trouble}")
                    break
                log.debug("deliver.paused sink=%s in full", self.name, exc_info=True)
                self._pause.wait(Fields(sink=self.name, error=self.trouble), lambda: False)
        self._stopped.set()

    def _give_up(self, why: str) -> None:
        self.gave_up = f"the sink {self.name} {why}"
        self.stop()

    def _collect(self) -> None:
        """Wait until there is something to settle or to claim. Other sends get a moment to end, too."""
        try:
            first = self._done.get(timeout=self._wait())
            if first is not None and self._owned.running:
                time.sleep(GATHER)
            while True:
                self._ended += [first] if first is not None else []
                first = self._done.get_nowait()
        except queue.Empty:
            pass
        self._give_up_overdue()

    def _wait(self) -> float | None:
        """Return the seconds until something is to be done though nothing ends; None when only another thread can
        tell."""
        if self._ended or self._owned.unstarted():
            return 0.0
        now = time.monotonic()
        oldest = self._owned.oldest_start(now)  # or one that starts from now on
        at = min(oldest + self._limit if self._owned else math.inf, self._claim_at(now))
        return None if at == math.inf else max(0.0, at - now)

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        overdue = self._owned.overdue(now - self._limit)
        for task in overdue:
            self._threads.abandon()
            task.seconds = now - task.started
            task.answers = [Unavailable(f"no answer within {self._sink.options.timeout:g} s")] * len(task.claimed)
        self._ended += overdue
        if overdue:  # the threads that were to send what waits may all be left behind
            self._room.note_trouble(now)
            self._owned.withdraw()
        if (hung := self._threads.abandoned) > WORN_OUT * self._places and not self.gave_up:
            self._give_up(f"left {hung} hung sends behind")

    def _settle(self) -> None:
        """Settle what has ended and hand back what will not start. Both stay owned until that is committed."""
        unstarted = self._owned.unstarted()
        if not self._ended and not unstarted:
            return
        sinks, paused = self._settlement.settle(self._ledger, self._ended, unstarted)
        if paused:
            self._owned.withdraw()
        for task in self._ended:
            self._room.note_send(task.seconds)
        settled = [*unstarted, *(each for task in self._ended for each in task.claimed)]
        self._ended = []
        # What is handed back is due again; a lane that has a free place, or was probed, may have more.
        if unstarted or self._lane_limit or any(it.probe for it in settled):
            self._poked = True
        self._owned.forget(settled)
        if sinks:
            self._on_due(sinks)

    def _claim(self) -> None:
        """Claim and start what is due, if there is room. Raises LedgerUnavailable."""
        now, owned = time.monotonic(), self._owned.all()
        if now < self._claim_at(now):
            return
        self._claiming = True
        self._poked = False
        self._room.note_claim(now)
        room = self._room.free(*self._owned.size(), now)
        more = True  # until the ledger has answered
        try:
            claimed = self._claim_due(room, owned)
            more = not claimed.all_due
            if claimed:
                self.take(self._loaded(claimed))
        finally:
            if more:
                self._poked = True
            self._claiming = False

    def _claim_due(self, limit: int, owned: Sequence[Claimed]) -> Claims:
        """Claim up to `limit` due deliveries beside those that are `owned`: as many as the rate and the lanes allow."""
        many = None
        if self._lane_limit:
            of_lanes, probing = Counter(each.lane for each in owned), sum(each.probe for each in owned)
            many = ManyLanes(self._places, self._lane_limit, of_lanes, probing, self._rotation)
        if self._rate:
            limit = self._allowed(self._rate, limit)
        if not limit:
            return Claims()  # the process pokes once a second
        most_bytes = self._room.bytes_left(sum(map(weight, owned)))
        claimed: Claims | None = None

        def work(connection: Connection) -> Claims:
            nonlocal claimed
            given = (connection, self.name, limit, self.owner, self._ledger.now())
            claimed = claims.claim(*given, most_bytes=most_bytes, many=many, earlier=claimed)
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
        self._owned.own(claimed)
        found: Sequence[Claimed] = ()
        try:
            found = self._ledger.read(lambda connection: load_bodies(connection, claimed), transaction=False)
        finally:
            self._owned.withdraw(set(claimed).difference(found))
        return found

    def _claim_at(self, now: float) -> float:
        """Return when to claim, by time.monotonic(): infinite for not before a send ends or another thread pokes."""
        if not self._poked or self._stopping.is_set():
            return math.inf
        return self._room.claims_at(*self._owned.size(), now, waiting=self._owned.waiting)


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
