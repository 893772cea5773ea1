"""Sends of one sink that are under way, and what is in hand behind them: threads, places, time limits. No ledger.

A unit is what one thread sends at a time. It begins in a place of its own, or it is in hand and begins in the place of
one that was accepted, in the same thread and without waiting for the ledger. So no more are ever under way than began
with a place. Where a send met trouble its place stays empty, and whoever watches decides.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from handlers import Delivery, Receipt, Sink, SinkOptions, Unavailable
from handlers.support.daemon_pool import DaemonPool
from receiver.domain.run import parse
from receiver.ledger.deliveries.claims import Claimed

Receipts = Mapping[str, dict[str, object] | None]
"""By sink."""


@dataclass(slots=True, eq=False)
class SendTask:
    """What one thread sends at a time: one delivery, or a batch. `token`: its claim, without a mark."""

    token: str
    claimed: Sequence[Claimed]
    receipts: dict[str, Receipts]
    started: float = 0.0  # monotonic; 0.0 while it is in hand
    started_at: float = 0.0  # seconds since the epoch
    answers: list[Receipt | Exception] = field(default_factory=list)
    seconds: float = 0.0  # that the send took
    ended: bool = False
    next_task: SendTask | None = None
    """What was in hand and has begun in its place."""

    @property
    def accepted(self) -> bool:
        return all(isinstance(answer, Receipt) for answer in self.answers)

    @property
    def frees_slot(self) -> bool:
        return self.ended and self.next_task is None and self.accepted


class SenderPool:
    """`places`: how many units may be under way. `limit`: seconds after which a send is given up. `note`: told of each
    delivery that was in hand just before it is sent."""

    def __init__(
        self, sink: Sink[SinkOptions], places: int, limit: float, note: Callable[[str], None] = lambda _delivery: None
    ) -> None:
        self._sink = sink
        self._many = sink.batch_size > 1
        self._limit = limit
        self._places = places
        self._note = note
        self._pool = DaemonPool(places, f"send-{sink.name}")
        self._ended: queue.SimpleQueue[SendTask] = queue.SimpleQueue()
        self._passing = threading.Lock()  # held while a place is passed on or taken away
        self._in_hand: deque[SendTask] = deque()
        self._flying: dict[int, SendTask] = {}
        self.pace = float("inf")
        """Seconds that a send takes, as seen lately; infinite before the first."""

    def __bool__(self) -> bool:
        return bool(self._flying or self._in_hand)

    @property
    def free(self) -> int:
        """Places in which nothing is under way."""
        return self._places - len(self._flying)

    @property
    def in_hand(self) -> int:
        """How many units have not begun."""
        return len(self._in_hand)

    @property
    def stranded(self) -> bool:
        """Whether something is in hand and nothing is under way that could leave it a place."""
        return bool(self._in_hand) and not self._flying

    @property
    def worn_out(self) -> bool:
        """So many sends have hung that the process should be replaced by a fresh one."""
        return self._pool.abandoned > 4 * self._places

    def tokens(self) -> set[str]:
        """The claims of all that has not landed."""
        with self._passing:
            tokens = {unit.token for unit in self._in_hand}
            for first in self._flying.values():
                unit: SendTask | None = first
                while unit is not None:
                    tokens.add(unit.token)
                    unit = unit.next_task
            return tokens

    def longest(self) -> float:
        """Seconds since the oldest send under way began; 0.0 when there is none."""
        now = time.monotonic()
        return max((now - unit.started for unit in self._flying.values()), default=0.0)

    def begin(self, unit: SendTask) -> None:
        """Send it, in a free place."""
        _mark_begun(unit)
        self._flying[id(unit)] = unit
        self._pool.submit(lambda: self._fly(unit))

    def hold(self, unit: SendTask) -> None:
        """Send it as soon as one that is under way leaves its place, which may have been a moment ago."""
        with self._passing:
            left = next((each for each in self._flying.values() if each.frees_slot), None)
            if left is None:
                self._in_hand.append(unit)
                return
            left.next_task = unit
            _mark_begun(unit)
        self._pool.submit(lambda: self._fly(unit))

    def withdraw(self) -> list[SendTask]:
        """What is in hand, and will not begin any more."""
        with self._passing:
            units = list(self._in_hand)
            self._in_hand.clear()
            return units

    def landed(self, longest: float) -> list[SendTask]:
        """Wait for at least one send to end, `longest` seconds at the most; those that overstay are given up."""
        first = min((unit.started for unit in self._flying.values()), default=time.monotonic())
        landed: list[SendTask] = []
        try:
            self._land(self._ended.get(timeout=max(0.01, min(first + self._limit - time.monotonic(), longest))), landed)
            while True:
                self._land(self._ended.get_nowait(), landed)
        except queue.Empty:
            pass
        now = time.monotonic()
        overdue = [unit for unit in self._flying.values() if unit.started + self._limit < now]
        return landed + [unit for unit in overdue if self._give_up(unit, now)]

    def close(self) -> None:
        """Let the threads that are not busy end."""
        self._pool.close()

    def _land(self, unit: SendTask, landed: list[SendTask]) -> None:
        if self._flying.pop(id(unit), None) is None:
            return  # it had been given up
        if unit.next_task is not None:
            self._flying[id(unit.next_task)] = unit.next_task
        self.pace = unit.seconds if self.pace == float("inf") else 0.8 * self.pace + 0.2 * unit.seconds
        landed.append(unit)

    def _give_up(self, unit: SendTask, now: float) -> bool:
        with self._passing:
            if unit.ended:  # just now: it is on its way to us
                return False
            unit.ended = True
        unit.seconds = now - unit.started
        unit.answers = [Unavailable(f"no answer within {self._sink.options.timeout:g} s")] * len(unit.claimed)
        self._flying.pop(id(unit))
        self._pool.abandon()
        return True

    def _fly(self, first: SendTask) -> None:
        """In a thread: send it, and then whatever begins in its place."""
        unit: SendTask | None = first
        while unit is not None:
            if unit.claimed[0].in_hand:
                self._note(unit.claimed[0].id)
            answers = self._send(unit)
            with self._passing:
                if unit.ended:
                    return  # given up, and its place is another's
                unit.ended, unit.answers = True, answers
                unit.seconds = time.monotonic() - unit.started
                next_task = None
                if self._in_hand and unit.frees_slot:
                    next_task = unit.next_task = self._in_hand.popleft()
                    _mark_begun(next_task)
                # Before `hold` may give it an next_task, which another thread sends: that one must land after it.
                self._ended.put(unit)
            unit = next_task  # not unit.next_task, which `hold` may have set since

    def _send(self, unit: SendTask) -> list[Receipt | Exception]:
        try:
            deliveries = [to_delivery(each, unit.receipts.get(each.id, {})) for each in unit.claimed]
            answers: list[Receipt | Exception] = []
            if self._many:
                answers += self._sink.send_many(deliveries)
            else:
                answers.append(self._sink.send(deliveries[0]))
            if len(answers) != len(unit.claimed):
                raise RuntimeError(f"{len(answers)} answers to {len(unit.claimed)} deliveries")
        except Exception as error:  # noqa: BLE001 - the three kinds are told apart when it is settled
            return [error] * len(unit.claimed)
        return answers


def _mark_begun(unit: SendTask) -> None:
    unit.started, unit.started_at = time.monotonic(), time.time()


def to_delivery(each: Claimed, receipts: Receipts) -> Delivery:
    """The delivery that a sink is given for a claim. `receipts`: by sink, of those that it waited for."""
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
