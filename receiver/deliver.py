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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import redis

from handlers import Delivery, Receipt, Refused, Sink, SinkOptions, Unavailable, registry
from receiver import backoff, breaker, wakeups
from receiver.config import Config, RetryPolicy
from receiver.ledger import Connection, Ledger, LedgerUnavailable, delivering, lanes
from receiver.ledger.delivering import Claimed, Settled
from receiver.pool import Pool
from receiver.run import parse
from receiver.services import SourceServices
from receiver.settings import Settings
from receiver.states import Move

LINGER = 1.0
"""Seconds that a job waits for more before it ends."""
CLAIM = 15.0
"""Seconds after which a claim that nobody renews lapses: how long a killed worker's deliveries wait at the most."""
RENEW = 4.0
GRACE = 2.0
"""Seconds that a send may overrun its sink's own time-out before it is given up."""
BATCHES = 2
"""Batches in flight for a sink that takes many at once: one is sent while the next is claimed."""
REASON_CAP = 500

log = logging.getLogger("runhook.deliver")


def job_timeout(send_timeout: float) -> int:
    """Seconds after which a deliver job is overdue, given the longest send of its sink."""
    return int(wakeups.TURN + send_timeout + 2 * GRACE + 10)


@dataclass(slots=True)
class Unit:
    """What one thread sends at a time: one delivery, or a batch."""

    token: str
    claimed: Sequence[Claimed]
    started: float = 0.0  # monotonic
    started_at: float = 0.0  # seconds since the epoch
    answers: list[Receipt | Exception] = field(default_factory=list)
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
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._retry = retry
        self._redis = connection
        self._owner = owner
        self._queue = wakeups.deliver_queue(sink.name)
        self._many = sink.batch_size > 1
        self._places = min(concurrency, BATCHES) if self._many else concurrency
        self._pool = Pool(self._places, f"send-{sink.name}")
        self._done: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        self._flying: dict[int, Unit] = {}
        self._unsettled: list[Unit] = []
        self._tokens = itertools.count(1)
        self._renewed = 0.0
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
                elif closing or not (claimed or wakeups.wait_nudge(self._redis, self._queue, LINGER)):
                    break
        except LedgerUnavailable as error:
            log.warning("deliver.paused sink=%s ledger=%s unsettled=%d", self._sink.name, error, len(self._unsettled))
            wakeups.lower_flag(self._redis, self._queue)
            return
        wakeups.settle(self._redis, self._queue, self._look_once_more)

    def _look_once_more(self) -> bool:
        """What was queued while the flag was still up has rung no bell."""
        return self._ledger.read(lambda connection: delivering.has_due(connection, self._sink.name, time.time()))

    @property
    def worn_out(self) -> bool:
        """So many sends have hung that the process should be replaced by a fresh one."""
        return self._pool.abandoned > 4 * self._places

    def close(self) -> None:
        """Let go of the sink and the ledger."""
        self._pool.close()
        self._sink.close()
        self._ledger.close()
        self._redis.close()

    def _claim(self) -> int:
        """Claim for the free places and start sending. Returns how many deliveries were claimed."""
        free = self._places - len(self._flying)
        if free < max(1, self._places // 2):
            return 0
        limit = self._sink.batch_size if self._many else free
        token = f"{self._owner}/{next(self._tokens)}"
        now = time.time()
        claimed, receipts = self._ledger.write(lambda connection: self._take(connection, limit, token, now))
        if not claimed:
            return 0
        units = [claimed] if self._many else [[each] for each in claimed]
        for each in units:
            self._start(Unit(token, each), receipts)
        return len(claimed)

    def _take(
        self, connection: Connection, limit: int, token: str, now: float
    ) -> tuple[list[Claimed], dict[str, dict[str, dict[str, object] | None]]]:
        claimed, _ = delivering.claim(connection, self._sink.name, limit, token, now, CLAIM)
        receipts = {
            each.id: delivering.receipts(connection, each.event_id, each.after) for each in claimed if each.after
        }
        return claimed, receipts

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
            self._done.put(unit)

        self._pool.submit(work)

    def _collect(self) -> None:
        """Wait for at least one send to end, but not past the next renewal; give up those that overstay."""
        limit = self._sink.options.timeout + GRACE
        if self._many:
            limit += GRACE  # a batch has one time-out for the whole
        overdue = min(unit.started for unit in self._flying.values()) + limit
        wait = max(0.01, min(overdue - time.monotonic(), RENEW / 2))
        try:
            self._landed(self._done.get(timeout=wait))
            while True:
                self._landed(self._done.get_nowait())
        except queue.Empty:
            pass
        now = time.monotonic()
        for unit in [unit for unit in self._flying.values() if unit.started + limit < now]:
            unit.given_up = True
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
        released, counts = self._ledger.write(lambda connection: self._write_down(connection, units, now))
        self._unsettled = [unit for unit in self._unsettled if unit not in units]
        log.info("deliver.settled sink=%s %s", self._sink.name, " ".join(f"{k}={v}" for k, v in counts.items()))
        wakeups.wake_all(self._redis, [wakeups.deliver_queue(sink) for sink in released])

    def _write_down(self, connection: Connection, units: Sequence[Unit], now: float) -> tuple[set[str], dict[str, int]]:
        released: set[str] = set()
        counts: dict[str, int] = {}
        gates = self._pass_gates(connection, units, now)
        for unit in units:
            results = [
                self._judge(unit, each, answer, gates.get(each.lane), now)
                for each, answer in zip(unit.claimed, unit.answers, strict=True)
            ]
            for each in results:
                counts[each.outcome] = counts.get(each.outcome, 0) + 1
            released |= set(delivering.settle(connection, unit.token, results, self._owner, now))
        return released, counts

    def _pass_gates(
        self, connection: Connection, units: Sequence[Unit], now: float
    ) -> dict[str, tuple[breaker.Lane, breaker.Lane]]:
        """Each lane that met trouble, or was probed, with its breaker before and after these answers."""
        answers: dict[str, list[tuple[bool, str, float | None]]] = {}
        probed: set[str] = set()
        for unit in units:
            for each, answer in zip(unit.claimed, unit.answers, strict=True):
                if isinstance(answer, (Receipt, Refused, Unavailable)):
                    down = isinstance(answer, Unavailable)
                    retry_after = answer.retry_after if isinstance(answer, Unavailable) else None
                    answers.setdefault(each.lane, []).append((not down, _reason(answer) if down else "", retry_after))
                if each.probe:
                    probed.add(each.lane)
        troubled = {lane for lane, seen in answers.items() if not all(up for up, _, _ in seen)}
        touched = (troubled | probed | self._watched) & (answers.keys() | probed)
        if not touched:
            return {}
        rows = {lane.lane: lane for lane in lanes.of_sink(connection, self._sink.name)}
        gates = {}
        for name in sorted(touched):
            before = rows.get(name) or breaker.Lane(name, self._sink.name)
            after = breaker.after(before, answers.get(name, []), now)
            if after.breaker == "probing":  # the probe met a bug of ours, which says nothing about the sink
                after = breaker.after(before, [(False, "the probe failed in our own code", None)], now)
            if after != before:
                lanes.put(connection, after, now)
                if after.breaker != before.breaker:
                    log.warning("breaker.%s lane=%s reason=%s", after.breaker, name, after.reason)
            if after.failures:
                self._watched.add(name)
            else:
                self._watched.discard(name)
            gates[name] = (before, after)
        return gates

    def _judge(
        self,
        unit: Unit,
        each: Claimed,
        answer: Receipt | Exception,
        gate: tuple[breaker.Lane, breaker.Lane] | None,
        now: float,
    ) -> Settled:
        """What one answer means for its delivery."""
        common = {"id": each.id, "number": each.number, "started_at": unit.started_at, "ended_at": now}
        if isinstance(answer, Receipt):
            return Settled(move=Move.ACCEPT, outcome="accepted", reason="", receipt=answer.to_dict(), **common)  # type: ignore[arg-type]
        reason = _reason(answer)
        if isinstance(answer, Refused):
            log.warning("delivery.refused id=%s sink=%s reason=%s", each.id, each.sink, reason)
            return Settled(move=Move.DIE, outcome="refused", reason=reason, **common)  # type: ignore[arg-type]
        if isinstance(answer, Unavailable):
            outcome, retry_after = "unavailable", answer.retry_after
        else:
            outcome, retry_after = "error", None
            log.error("delivery.error id=%s sink=%s", each.id, each.sink, exc_info=answer)
        parked = outcome == "unavailable" and gate is not None and gate[0].breaker != "closed"
        spent = each.spent + (0 if parked else 1)
        due = backoff.next_try(self._retry, spent, now, random.random(), retry_after)
        if parked and gate is not None:
            due = max(gate[1].until, now)
        log.warning(
            "delivery.%s id=%s sink=%s attempt=%d reason=%s",
            "waiting" if due else "dead",
            each.id,
            each.sink,
            each.number,
            reason,
        )
        return Settled(
            move=Move.DIE if due is None else Move.DEFER,
            outcome=outcome,
            reason=reason,
            due_at=due or now,
            spends=not parked,
            retry_after=retry_after,
            **common,  # type: ignore[arg-type]
        )


def _reason(answer: Exception) -> str:
    """What an operator reads. A sink's own errors hold no secret by contract; of a bug only the type is told."""
    if isinstance(answer, (Refused, Unavailable)):
        return str(answer)[:REASON_CAP]
    return f"{type(answer).__name__} in the sink's code"


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
        problem=each.problem,
        labels=each.labels,
        receipts=receipts,
    )


def build(settings: Settings, config: Config, name: str, owner: str) -> Deliverer:
    """The deliverer for sink `name` in a worker process called `owner`. Opens its connections on first use."""
    chosen = config.sinks[name]
    connection = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=LINGER + 5)
    sink = registry.build(name, chosen.type, chosen.options, SourceServices(config))
    return Deliverer(Ledger(settings.database_url), sink, chosen.retry, chosen.concurrency, connection, owner)
