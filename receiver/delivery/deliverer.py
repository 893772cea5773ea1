"""From the ledger to one sink: claim what is due, send it, settle what has ended.

A retry frees its slot: nothing sleeps here. While sends are under way their claims are renewed; a send that takes
longer than its sink allows is given up, and its thread is left behind rather than waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis

from handlers import Sink, SinkOptions, registry
from receiver import wakeups
from receiver.config.destinations import RetryPolicy
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery import gathering, prefetch
from receiver.delivery.callback_sink import CallbackSink
from receiver.delivery.claimer import CLAIM_AGAIN, ClaimedBatch, Claimer, Due
from receiver.delivery.gathering import GATHER, GATHER_AHEAD, MOST_UNSETTLED
from receiver.delivery.offer import ROOM, Offers
from receiver.delivery.prefetch import Prefetch
from receiver.delivery.send_task import SendTask
from receiver.delivery.sender import SenderPool
from receiver.delivery.settlement import Settlement
from receiver.delivery.sink_services import SourceServices
from receiver.domain.callback import CALLBACK
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.deliveries import attempts, claims
from receiver.ledger.deliveries.claims import CLAIM
from receiver.runtime import liveness
from receiver.runtime.handover import Handover
from receiver.runtime.outage import Pause
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import SharedRate
from receiver.telemetry.logs import Fields
from receiver.telemetry.workers import AttemptCounter

# Seconds that a job waits for more before it ends.
IDLE_WAIT = 1.0
# Seconds between two renewals of the claims of what is under way.
RENEW = 4.0
# Seconds that a send may overrun its sink's own time-out before it is given up.
GRACE = 2.0
# Sends under way for a sink that takes many at once: of what was claimed, one is sent while the next is claimed; and
# more of what is handed on, which are small.
BATCHES = 2
HANDED_ON = 2
log = logging.getLogger("runhook.deliver")


class Deliverer(wakeups.JobBody):
    """The body of the deliver jobs of one process, for one sink.

    `owner`: names the process in its claims. `lane_limit`: how many of one lane may be claimed at once, for a sink that
    has many. `per_slot`: how many deliveries are prefetched for each slot. `on_start`: see SenderPool. `on_settled`:
    called with the same ids once the ledger knows how their sends have ended. `handover`: from the dispatchers of
    this worker, for a sink that takes many at once.
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
        idle_wait: float = IDLE_WAIT,
        lane_limit: int | None = None,
        per_slot: int = prefetch.PER_SLOT,
        on_start: Callable[[Sequence[str]], None] = lambda _ids: None,
        on_settled: Callable[[Sequence[str]], None] = lambda _ids: None,
        handover: Handover | None = None,
        gather: float = GATHER,
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._redis = connection
        self._owner = owner
        self._rate = rate
        self._without_redis = False
        self._idle_wait = idle_wait
        self._lane_limit = lane_limit
        self._queue = wakeups.deliver_queue(sink.name)
        self._many = sink.batch_size > 1
        # The slots of a sink, its rate and its lanes are counted when it claims.
        counted = rate is not None or lane_limit or not self._many
        slots = min(concurrency, BATCHES if counted else BATCHES + HANDED_ON) if self._many else concurrency
        self._senders = SenderPool(sink, slots, self._limit, on_start, retry=retry)
        # What is counted when it is claimed, by the rate or by the lane, must be sent then.
        alone = self._many or rate is not None or lane_limit
        self._prefetch = None if alone or not per_slot else Prefetch(self._senders, owner, per_slot)
        self._nudges = wakeups.NudgeWait(connection, self._queue)
        self._offers = Offers(ledger, self._nudges, None if counted else handover, owner, sink.batch_size)
        self._unsettled: list[SendTask] = []
        self._on_settled = on_settled
        self._gather = gather if self._offers.possible else 0.0
        self._gather_ahead = GATHER_AHEAD if self._prefetch and gather else 0.0
        self._renewed = 0.0
        self._pause = Pause(log, "deliver")
        self._claimer = Claimer(
            *(ledger, sink, owner, self._senders, self._prefetch, self._pause),
            concurrency=concurrency,
            lane_limit=lane_limit,
            rate=rate,
            budget=retry.attempts,
        )
        self._counter = AttemptCounter(connection, sink.name)
        self._settlement = Settlement(sink.name, retry, owner, self._counter)

    def run(self, stop: Callable[[], bool]) -> None:
        """Deliver until nothing is due or `stop()` says so: the worker stops, or this job's time slice is over."""
        try:
            self._deliver(stop, self._wait)
            self._counter.flush()
            wakeups.finish(self._redis, self._queue, lambda: self._owes or self._claimer.more_due())
        except LedgerUnavailable as error:
            self._take_pause(error, stop)
            if self._owes or self._senders:
                wakeups.wake(self._redis, self._queue, force=True)
            else:
                wakeups.lower_flag(self._redis, self._queue)

    def run_without_redis(self, stop: Callable[[], bool]) -> None:
        """Deliver what the ledger has due, for no wake-up can come. Returns when nothing is.

        A sink with a `rate` waits, for nobody knows what is left of it.
        """
        self._without_redis = True
        try:
            self._deliver(lambda: stop() or self._rate is not None, lambda: False)
        except LedgerUnavailable as error:
            self._take_pause(error, stop)
        finally:
            self._without_redis = False

    def _deliver(self, stop: Callable[[], bool], more: Callable[[], bool]) -> None:
        """Claim, send, settle, until nothing is due and `more()` is false; after a stop only what was begun."""
        self._claimer.due = Due.MORE
        try:
            while True:
                closing = stop() or self._senders.worn_out
                self._unsettled += self._senders.ended()
                batch = self._handed_on(closing=closing)
                if batch is None:
                    self._settle(closing=closing)
                    batch = None if closing else self._claimed()
                if batch is not None:
                    self._send(batch)
                if self._unsettled:
                    self._settle(closing=closing)  # what had ended before, while that is sent
                if self._senders or self._unsettled:
                    self._offer(closing=closing)
                    self._wait_for_ends(closing=closing)
                elif batch is None and not (self._unknown or self._claimer.unseen_lanes):
                    if closing or not more():
                        return
                elif closing:
                    return
        finally:
            self._offers.withdraw()

    def _claimed(self) -> ClaimedBatch | None:
        """Claim, if anything may be due."""
        if self._senders and not self._offers.possible:
            return self._claimer.claim()  # nobody has looked for nudges since the sends began
        if (self._senders or self._unsettled) and self._offers.nudged():
            self._claimer.note_nudge()
        if self._claimer.due is Due.NOTHING and not (self._unknown or self._without_redis):
            return None
        if self._many and self._senders.under_way >= BATCHES:
            return None
        self._offers.withdraw()  # what is new must not pass what is due
        if self._claimer.due is Due.NEW and self._senders.free > 1:
            # But without an offer meanwhile, under a steady load each claim would make the next one necessary.
            self._offer(closing=False)
        self._claimer.due = Due.MORE  # until the ledger has answered
        batch = self._claimer.claim()
        if self._claimer.due is Due.MORE:
            self._offers.withdraw()
        return batch

    def _offer(self, *, closing: bool) -> None:
        """Let dispatchers hand on what is new while sends are under way."""
        due = self._claimer.due
        if due is not Due.MORE and self._senders.free and not (closing or self._unknown or self._without_redis):
            self._offers.put(next(self._claimer.numbers))

    def _wait(self) -> bool:
        """Wait for more. False when nothing came, nor will. Raises redis.RedisError."""
        # What is new must not pass what is due, nor what waits behind a breaker.
        offers = self._claimer.due is not Due.MORE
        came = self._offers.wait(self._idle_wait, next(self._claimer.numbers) if offers else None)
        if came == "nudge":
            self._claimer.note_nudge()
        if not came:
            self._offers.withdraw()
        return bool(came) or self._offers.taken

    def _handed_on(self, *, closing: bool) -> ClaimedBatch | None:
        """Return what a dispatcher has handed on, if it may start now; then the next offer is out."""
        answer = self._offers.receive() if self._senders.free and not gathering.is_full(self._unsettled) else None
        if answer is None:
            return None
        if not answer.ids:  # more came than it had room for, or nothing that is known
            self._claimer.due = Due.MORE
        if self._senders.free > 1:
            self._offer(closing=closing)  # at once: the next events are being dispatched
        undisturbed = not self._unknown and all(task.accepted for task in self._unsettled)
        found = self._offers.load(answer, undisturbed=undisturbed)
        return ClaimedBatch(answer.claim_number, found, {}, []) if found else None

    @property
    def _unknown(self) -> bool:
        """Whether the ledger may hold claims of ours that we don't know, or don't send."""
        return self._claimer.commit_lost or self._offers.unknown

    @property
    def _owes(self) -> bool:
        """Whether the ledger has claims that only the next job of this process puts right: the clock wakes the queue
        for what is due. Without it they are sent twice, or when they have lapsed."""
        return bool(self._unsettled or self._withdrawn or self._offers.taken or self._offers.unknown)

    def share(self, sends: Callable[[int], None]) -> None:
        """See JobBody. The first send that hangs is one too many."""
        self._senders.share(sends)

    @property
    def job_timeout(self) -> float:
        """Seconds after which one of its jobs is overdue: its time slice, and the longest send that may start in it."""
        return wakeups.TIME_SLICE + self._limit + 10

    @property
    def worn_out(self) -> bool:
        """Whether so many sends have hung that a fresh process should replace this one."""
        return self._senders.worn_out

    def close(self) -> None:
        """Close the sink, the ledger and Redis."""
        self._senders.close()
        self._counter.flush()
        self._sink.close()
        self._ledger.close()
        self._redis.close()

    @property
    def _limit(self) -> float:
        """Seconds after which a send is given up."""
        return self._sink.options.timeout + (2 * GRACE if self._many else GRACE)

    @property
    def _withdrawn(self) -> list[SendTask]:
        return self._prefetch.withdrawn if self._prefetch else []

    def _take_pause(self, error: LedgerUnavailable, stop: Callable[[], bool]) -> None:
        self._pause.wait(Fields(sink=self._sink.name, ledger=error, unsettled=len(self._unsettled)), stop)

    def _send(self, batch: ClaimedBatch) -> None:
        """Start what was claimed with a slot, and queue what was prefetched."""
        units = [batch.claimed] if self._many and batch.claimed else [[each] for each in batch.claimed]
        for unit in units:
            task = SendTask(batch.claim_number, unit, batch.receipts)
            if self._prefetch and unit[0].prefetched:
                self._senders.enqueue(task)
            else:
                self._senders.start(task)

    def _wait_for_ends(self, *, closing: bool) -> None:
        """Wait for a send to end, for something to come where there is room for it, or until what has ended should be
        settled; but not past the next renewal."""
        now = time.monotonic()
        longest = CLAIM_AGAIN if self._lane_limit or self._prefetch else RENEW / 2
        if self._claimer.cut_short:
            longest = 0.0  # the next claim takes more
        longest = min(longest, self._settle_at() - now)
        others: list[int] = []
        for_all, low = True, -1
        if self._gather and self._senders.free and not closing:
            others = self._offers.descriptors()
            # Nobody need be woken by an end before the first of them is to be settled.
            first = self._senders.oldest_start() + self._gather
            if self._claimer.due is Due.NOTHING and first > now:
                for_all, longest = False, min(longest, first - now)
        if self._prefetch and self._gathers_ahead and not closing:
            first = self._senders.oldest_start() + self._gather_ahead
            if first > now:  # else its end is settled at once
                for_all, low, longest = False, self._prefetch.low, min(longest, first - now)
        self._offers.hear(self._senders.wait(longest, others, for_all=for_all, low=low))
        if self._senders and time.monotonic() - self._renewed > RENEW:
            self._renewed = time.monotonic()
            numbers = self._senders.claim_numbers()
            self._ledger.write(
                lambda connection: claims.renew(connection, self._owner, numbers, self._ledger.now() + CLAIM)
            )

    def _settle(self, *, closing: bool) -> None:
        """Settle the deliveries whose sends have ended. They stay in `_unsettled` until that is committed."""
        if self._prefetch:
            self._prefetch.review(self._unsettled, closing=closing)
        if self._withdrawn or self._unknown:  # which are due again, and nudge nobody
            self._claimer.due = Due.MORE
        elif not closing and self._settle_at() > time.monotonic():
            return

        started = self._prefetch.started(self._unsettled) if self._prefetch else {}
        disturbed = self._unknown or not all(task.accepted for task in self._unsettled)
        apart = self._take_back if self._unknown or self._withdrawn else None
        ended = self._settlement.settle(self._ledger, self._unsettled, started, apart)
        if disturbed:
            self._offers.disturbed()
        self._claimer.commit_lost = self._offers.unknown = False
        self._on_settled([each.id for task in self._unsettled for each in task.claimed if each.prefetched])
        self._unsettled.clear()
        self._withdrawn.clear()
        if ended:
            self._release(ended)

    @property
    def _gathers_ahead(self) -> bool:
        """Whether no slot waits for the settlement of what has ended, so that it may wait for the next claim."""
        return bool(self._gather_ahead) and self._prefetch is not None and self._prefetch.lasts

    def _settle_at(self) -> float:
        """Return when what has ended is to be settled; see gathering.settle_at."""
        if self._gathers_ahead:
            return gathering.settle_at(self._unsettled, self._gather_ahead, most=float("inf"))
        return gathering.settle_at(self._unsettled, self._gather)

    def _take_back(self, connection: Connection, now: float) -> None:
        """Queue what of our claims we don't know, or don't send."""
        if self._unknown:
            known = self._senders.claim_numbers() | self._offers.outstanding
            known |= {task.claim_number for task in (*self._unsettled, *self._withdrawn)}
            claims.release_unknown(connection, self._owner, known, now)
        if self._prefetch:
            self._prefetch.hand_back(connection, now)

    def _release(self, ended: Sequence[str]) -> None:
        """Queue what has waited for these events' deliveries to end. Should this process die first, the clock does."""
        released = self._ledger.write(lambda connection: attempts.release_held(connection, ended, self._ledger.now()))
        if self._without_redis:
            return
        with suppress(redis.RedisError):  # the clock wakes them; what else is under way must be settled
            wakeups.wake_sinks(self._redis, set(released))


def build(settings: Settings, config: Config, name: str, owner: str, handover: Handover | None = None) -> Deliverer:
    """Return the deliverer for sink `name` in the worker process `owner`. Opens its connections on first use.

    `handover`: see Deliverer.
    """
    connection = connect(settings.redis_url, timeout=IDLE_WAIT + 5, connect_timeout=2.0, retries=1)
    services = SourceServices(config, settings.skyvern_base_url)
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    if name == CALLBACK:
        callbacks = config.callbacks
        options = SinkOptions(timeout=callbacks.timeout)
        lookup = Ledger(settings.database_url)
        callback: Sink[Any] = CallbackSink(options, services, lookup, settings.master_secret, config.allowed_addresses)
        limit = callbacks.per_origin
        return Deliverer(ledger, callback, callbacks.retry, callbacks.concurrency, connection, owner, lane_limit=limit)
    chosen = config.sinks[name]
    sink = registry.build(name, chosen.type, chosen.options, services)
    rate = SharedRate(connection, name, chosen.rate_limit) if chosen.rate_limit else None
    unrecorded = max(prefetch.unrecorded_starts(chosen.concurrency), MOST_UNSETTLED + (BATCHES + HANDED_ON) * ROOM)
    journal = liveness.StartedJournal(settings.data, owner, unrecorded)
    # What waits for a sink's receipt waits for its settlement.
    followed = any(name in target.after for route in config.routes for target in route.targets)
    return Deliverer(
        *(ledger, sink, chosen.retry, chosen.concurrency, connection, owner),
        rate=rate,
        on_start=journal.add,
        on_settled=journal.settled,
        handover=handover,
        gather=0.0 if followed else GATHER,
    )
