"""From the ledger to one sink: claim what is due, send it, write down what became of it.

A retry frees its place: nothing sleeps here. While sends are under way their claims are renewed; a send that takes
longer than its sink allows is given up, and its thread is left behind rather than waited for.
"""

from __future__ import annotations

import itertools
import logging
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from handlers import Delivery, Receipt, Sink, SinkOptions, Unavailable, registry
from receiver import breaker, samples, verdicts, wakeups
from receiver.callbacks import CallbackOptions, CallbackSink
from receiver.config import CALLBACK, Config, RetryPolicy
from receiver.event import delivery_id, event_id
from receiver.ledger import Connection, Ledger, LedgerUnavailable, delivering, lanes
from receiver.ledger.delivering import Claimed, Settled
from receiver.pauses import Pause
from receiver.pool import Pool
from receiver.rates import Rate
from receiver.run import parse
from receiver.services import SourceServices
from receiver.settings import Settings
from receiver.states import target
from receiver.tally import Tally

LINGER = 1.0
"""Seconds that a job waits for more before it ends."""
CLAIM = 15.0
"""Seconds after which a claim that nobody renews lapses: how long a killed worker's deliveries wait at the most."""
RENEW = 4.0
GRACE = 2.0
"""Seconds that a send may overrun its sink's own time-out before it is given up."""
BATCHES = 2
"""Batches in flight for a sink that takes many at once: one is sent while the next is claimed."""
LANES_LOOK = 0.25
"""Seconds after which a sink with many lanes looks for new work although all that is under way is slow."""
log = logging.getLogger("runhook.deliver")


@dataclass(slots=True)
class Unit:
    """What one thread sends at a time: one delivery, or a batch."""

    token: str
    claimed: Sequence[Claimed]
    started: float = 0.0  # monotonic
    started_at: float = 0.0  # seconds since the epoch
    answers: list[Receipt | Exception] = field(default_factory=list)
    seconds: float = 0.0  # that the send took
    given_up: bool = False


class Deliverer:
    """The body of the deliver jobs of one process, for one sink."""

    def __init__(
        self,
        ledger: Ledger,
        sink: Sink[SinkOptions],
        retry: RetryPolicy,
        concurrency: int,
        connection: redis.Redis,
        owner: str,
        *,
        rate: Rate | None = None,
        linger: float = LINGER,
        lane_limit: int | None = None,
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._retry = retry
        self._redis = connection
        self._owner = owner
        self._concurrency = concurrency
        self._rate = rate
        self._spent_rate = False
        self._linger = linger
        self._lane_limit = lane_limit
        """How many of one lane may be claimed at once, for a sink that has many."""
        self._queue = wakeups.deliver_queue(sink.name)
        self._many = sink.batch_size > 1
        self._places = min(concurrency, BATCHES) if self._many else concurrency
        self._pool = Pool(self._places, f"send-{sink.name}")
        self._done: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        self._flying: dict[int, Unit] = {}
        self._unsettled: list[Unit] = []
        self._tokens = itertools.count(1)
        self._renewed = 0.0
        self._pause = Pause(log, "deliver")
        self._tally = Tally(connection, sink.name)
        self._watched: set[str] = set()  # lanes that have met trouble lately

    def run(self, stop: Callable[[], bool]) -> None:
        """Deliver until nothing is due or `stop()` says so: the worker stops, or this job's turn is over."""
        try:
            while True:
                self._settle()
                closing = stop()
                claimed = 0 if closing else self._claim()
                if self._flying:
                    self._collect()
                elif closing or not (claimed or wakeups.wait_nudge(self._redis, self._queue, self._linger)):
                    break
            self._tally.flush()
            wakeups.settle(self._redis, self._queue, self._look_once_more)
        except LedgerUnavailable as error:
            self._pause.take(f"sink={self._sink.name} ledger={error} unsettled={len(self._unsettled)}", stop)
            if self._unsettled or self._flying:
                # The clock rings for what is due. Of these only we know, and they would be sent twice.
                wakeups.enqueue_raised(self._redis, self._queue)
            else:
                wakeups.lower_flag(self._redis, self._queue)

    def _look_once_more(self) -> bool:
        """What was queued while the flag was still up has rung no bell. A spent rate is left to the clock."""
        if self._spent_rate:
            return False
        return self._ledger.read(lambda connection: delivering.has_due(connection, self._sink.name, time.time()))

    @property
    def job_timeout(self) -> float:
        """Seconds after which one of its jobs is overdue: its turn, and the longest send that may begin in it."""
        return wakeups.TURN + self._limit + 10

    @property
    def _limit(self) -> float:
        """Seconds after which a send is given up."""
        return self._sink.options.timeout + (2 * GRACE if self._many else GRACE)

    @property
    def worn_out(self) -> bool:
        """So many sends have hung that the process should be replaced by a fresh one."""
        return self._pool.abandoned > 4 * self._places

    def close(self) -> None:
        """Let go of the sink and the ledger."""
        self._pool.close()
        self._tally.flush()
        self._sink.close()
        self._ledger.close()
        self._redis.close()

    def _claim(self) -> int:
        """Claim for the free places and start sending. Returns how many deliveries were claimed."""
        free = self._places - len(self._flying)
        # One lane that is slow must not keep others from the places that are free.
        if free < (1 if self._lane_limit else max(1, self._places // 2)):
            return 0
        limit = self._allowed(self._sink.batch_size if self._many else free)
        if not limit:
            return 0
        now = time.time()
        token, claimed, receipts = self._ledger.write(lambda connection: self._take(connection, limit, now))
        self._pause.over()
        if not claimed:
            return 0
        units = [claimed] if self._many else [[each] for each in claimed]
        for each in units:
            self._start(Unit(token, each), receipts)
        return len(claimed)

    def _allowed(self, wanted: int) -> int:
        """How many of `wanted` the sink's rate allows now."""
        self._spent_rate = False
        if self._rate is None:
            return wanted
        if not self._look_once_more():
            return 0  # what is not sent must not count
        try:
            allowed = self._rate.take(wanted)
        except redis.RedisError:
            if not self._flying:
                raise
            return 0  # what is under way comes home first
        self._spent_rate = allowed == 0
        return allowed

    def _take(
        self, connection: Connection, limit: int, now: float
    ) -> tuple[str, list[Claimed], dict[str, dict[str, dict[str, object] | None]]]:
        # A token for each try: what a try has claimed whose commit we know nothing of must lapse, never be renewed.
        token = f"{self._owner}/{next(self._tokens)}"
        claimed, _ = delivering.claim(
            connection,
            self._sink.name,
            limit,
            token,
            now,
            CLAIM,
            None if self._many else self._concurrency,
            self._lane_limit,
        )
        receipts = {
            each.id: delivering.receipts(connection, each.event_id, each.after) for each in claimed if each.after
        }
        return token, claimed, receipts

    def _start(self, unit: Unit, receipts: dict[str, dict[str, dict[str, object] | None]]) -> None:
        unit.started, unit.started_at = time.monotonic(), time.time()
        self._flying[id(unit)] = unit

        def work() -> None:
            try:
                deliveries = [_as_delivery(each, receipts.get(each.id, {})) for each in unit.claimed]
                if self._many:
                    unit.answers = list(self._sink.send_many(deliveries))
                else:
                    unit.answers = [self._sink.send(deliveries[0])]
                if len(unit.answers) != len(unit.claimed):
                    raise RuntimeError(f"{len(unit.answers)} answers to {len(unit.claimed)} deliveries")
            except Exception as error:  # noqa: BLE001 - the three kinds are told apart when it is settled
                unit.answers = [error] * len(unit.claimed)
            unit.seconds = time.monotonic() - unit.started
            self._done.put(unit)

        self._pool.submit(work)

    def _collect(self) -> None:
        """Wait for at least one send to end, but not past the next renewal; give up those that overstay."""
        limit = self._limit
        overdue = min(unit.started for unit in self._flying.values()) + limit
        longest = LANES_LOOK if self._lane_limit else RENEW / 2
        wait = max(0.01, min(overdue - time.monotonic(), longest))
        try:
            self._landed(self._done.get(timeout=wait))
            while True:
                self._landed(self._done.get_nowait())
        except queue.Empty:
            pass
        now = time.monotonic()
        for unit in [unit for unit in self._flying.values() if unit.started + limit < now]:
            unit.given_up, unit.seconds = True, now - unit.started
            unit.answers = [Unavailable(f"no answer within {self._sink.options.timeout:g} s")] * len(unit.claimed)
            self._pool.abandon()
            self._unsettled.append(self._flying.pop(id(unit)))
        if self._flying and now - self._renewed > RENEW:
            self._renewed = now
            tokens = {unit.token for unit in self._flying.values()}
            self._ledger.write(lambda connection: delivering.renew(connection, tokens, time.time() + CLAIM))

    def _landed(self, unit: Unit) -> None:
        if not unit.given_up:
            self._flying.pop(id(unit), None)
            self._unsettled.append(unit)

    def _settle(self) -> None:
        """Write down what became of the sends that have ended. They stay with us until that is done."""
        if not self._unsettled:
            return
        units = list(self._unsettled)
        now = time.time()
        released, results = self._ledger.write(lambda connection: self._write_down(connection, units, now))
        self._unsettled = [unit for unit in self._unsettled if unit not in units]
        counts: Counter[str] = Counter()
        for unit, settled in results:
            for each, answer, one in zip(unit.claimed, unit.answers, settled, strict=True):
                counts[one.outcome] += 1
                self._tally.add(one.outcome, unit.seconds)
                if one.outcome != "accepted":
                    self._tell(each, answer, one)
        log.info("deliver.settled sink=%s %s", self._sink.name, " ".join(f"{k}={v}" for k, v in counts.items()))
        with suppress(redis.RedisError):  # the clock rings for them; what else is under way must be written down
            wakeups.wake_all(self._redis, [wakeups.deliver_queue(sink) for sink in released])

    def _write_down(
        self, connection: Connection, units: Sequence[Unit], now: float
    ) -> tuple[set[str], list[tuple[Unit, list[Settled]]]]:
        released: set[str] = set()
        results = []
        gates = self._pass_gates(connection, units, now)
        for unit in units:
            settled = [
                verdicts.settled(
                    each, answer, self._retry, gates.get(each.lane), unit.started_at, now, chance=random.random()
                )
                for each, answer in zip(unit.claimed, unit.answers, strict=True)
            ]
            released |= set(delivering.settle(connection, unit.token, settled, self._owner, now))
            results.append((unit, settled))
        return released, results

    def _tell(self, claimed: Claimed, answer: Receipt | Exception, settled: Settled) -> None:
        bug = answer if settled.outcome == "error" and isinstance(answer, Exception) else None
        log.log(
            logging.ERROR if bug else logging.WARNING,
            "delivery.%s id=%s sink=%s event=%s attempt=%d outcome=%s reason=%s",
            target(settled.move),
            claimed.id,
            claimed.sink,
            claimed.event_id,
            claimed.number,
            settled.outcome,
            settled.reason,
            exc_info=bug,
        )

    def _pass_gates(self, connection: Connection, units: Sequence[Unit], now: float) -> dict[str, verdicts.Gate]:
        """Each lane that met trouble, or was probed, with its breaker before and after these answers."""
        answers: dict[str, list[breaker.Answer]] = {}
        touched: set[str] = set()
        for unit in units:
            for each, answer in zip(unit.claimed, unit.answers, strict=True):
                seen = verdicts.availability(answer)
                if seen is not None:
                    answers.setdefault(each.lane, []).append(seen)
                if each.probe or (seen is not None and not seen.available) or each.lane in self._watched:
                    touched.add(each.lane)
        if not touched:
            return {}
        rows = {lane.lane: lane for lane in lanes.of_sink(connection, self._sink.name)}
        gates = {}
        for name in sorted(touched):
            before = rows.get(name) or breaker.Lane(name, self._sink.name)
            after = breaker.after(before, answers.get(name, []), now)
            if after != before:
                lanes.put(connection, after, now)
                if after.breaker != before.breaker:
                    log.warning("breaker.%s lane=%s reason=%s", after.breaker, name, after.reason)
            (self._watched.add if after.failures else self._watched.discard)(name)
            gates[name] = verdicts.Gate(before, after)
        return gates


def _as_delivery(each: Claimed, receipts: dict[str, dict[str, object] | None]) -> Delivery:
    run = parse(each.body)
    return Delivery(
        key=each.id,
        event_id=each.event_id,
        sink=each.sink,
        attempt=each.number,
        source=each.source,
        run_id=each.run_id,
        run_type=run.run_type,
        status=each.outcome,
        received_at=datetime.fromtimestamp(each.received_at, UTC),
        body=each.body,
        run=run.data,
        via=each.via,
        route=each.route,
        problem=run.problem,  # of the body; the event's own may be that a route could not be evaluated
        labels=each.labels,
        receipts=receipts,
    )


def sample_delivery(sink: str, source: str, now: float) -> Delivery:
    """A delivery that is marked as a test, of a run that never was."""
    body = samples.build("completed", now=now, run_id=f"tsk_test_{int(now)}")
    run = parse(body)
    return Delivery(
        key=delivery_id(event_id(source, body), sink),
        event_id=event_id(source, body),
        sink=sink,
        attempt=1,
        source=source,
        run_id=run.run_id,
        run_type=run.run_type,
        status=run.outcome,
        received_at=datetime.fromtimestamp(now, UTC),
        body=body,
        run=run.data,
        route="test",
        test=True,
    )


def build(settings: Settings, config: Config, name: str, owner: str) -> Deliverer:
    """The deliverer for sink `name` in a worker process called `owner`. Opens its connections on first use."""
    connection = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=LINGER + 5)
    services = SourceServices(config, settings.skyvern_base_url)
    if name == CALLBACK:
        served = config.callbacks
        options = CallbackOptions(timeout=served.timeout, connections=served.concurrency)
        sink: Sink[Any] = CallbackSink(options, services, Ledger(settings.database_url), settings.master_secret)
        return Deliverer(
            Ledger(settings.database_url),
            sink,
            served.retry,
            served.concurrency,
            connection,
            owner,
            lane_limit=served.per_origin,
        )
    chosen = config.sinks[name]
    return Deliverer(
        Ledger(settings.database_url),
        registry.build(name, chosen.type, chosen.options, services),
        chosen.retry,
        chosen.concurrency,
        connection,
        owner,
        rate=Rate(connection, name, chosen.rate_limit) if chosen.rate_limit else None,
    )
