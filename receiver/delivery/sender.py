"""Sends of one sink that are under way, and those queued behind them: threads, slots, time limits. No ledger.

A task starts in a slot of its own; or it is queued, and starts in the slot that an accepted one frees, in the same
thread and without waiting for the ledger. So no more are ever under way than started in a slot. A send that met trouble
frees its slot only when the caller has collected it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from handlers import Delivery, Receipt, Sink, SinkOptions, Unavailable
from handlers.support.daemon_pool import DaemonPool
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import LazyDeliveries, SendTask, to_delivery
from receiver.ledger.deliveries.claimed import Claimed
from receiver.runtime.process import Bell, readable


class SenderPool:
    """The sends of one sink in one process. False when none is under way or queued.

    `slots`: how many may be under way. `limit`: seconds after which a send is given up. `on_start`: called, in the
    sending thread, with the ids of prefetched deliveries just before they are sent.
    """

    def __init__(
        self,
        sink: Sink[SinkOptions],
        slots: int,
        limit: float,
        on_start: Callable[[Sequence[str]], None] = lambda _ids: None,
        *,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.slots = slots
        self._sink = sink
        self._many = sink.batch_size > 1
        self._limit = limit
        self._on_start = on_start
        self._retry = retry
        self._threads = DaemonPool(slots, f"send-{sink.name}")
        self._ended: deque[SendTask] = deque()
        # Who waits for an end is rung for: for each one, or for trouble only.
        self._bell: Bell | None = None
        self._waits = self._waits_for_all = False
        self._low = -1  # how many are queued when who waits is rung for too
        self._handover = threading.Lock()  # held while a slot passes from one task to another
        self._queued: deque[SendTask] = deque()
        # Ended tasks that were accepted and have no next task, until they are collected: in the order of `_ended`.
        self._freed: deque[SendTask] = deque()
        self._running: dict[int, SendTask] = {}
        # No send under way started before it: until one may be overdue, none is looked at.
        self._none_before = time.monotonic()
        # Seconds that a send takes, as seen lately; infinite before the first.
        self.typical_seconds = float("inf")
        self._most_abandoned = 4 * slots
        self._tell_running: Callable[[int], None] = lambda _running: None

    def share(self, running: Callable[[int], None]) -> None:
        """Be worn out by the first send that hangs, and call `running` whenever it changes how many are under way."""
        self._most_abandoned, self._tell_running = 0, running

    def __bool__(self) -> bool:
        return bool(self._running or self._queued)

    @property
    def free(self) -> int:
        """Count the slots in which nothing is under way."""
        return self.slots - len(self._running)

    @property
    def under_way(self) -> int:
        """Count the slots in which something is."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Count the tasks that have not started."""
        return len(self._queued)

    @property
    def bytes(self) -> int:
        """Count the bytes of the bodies that are under way or queued."""
        with self._handover:
            tasks = [*self._queued, *self._running.values()]
        return sum(len(each.body) for task in tasks for each in task.claimed)

    @property
    def stranded(self) -> bool:
        """Whether tasks are queued and none is under way that could free a slot for them."""
        return bool(self._queued) and not self._running

    @property
    def worn_out(self) -> bool:
        """So many sends have hung that the process should be replaced by a fresh one."""
        return self._threads.abandoned > self._most_abandoned

    def claim_numbers(self) -> set[int]:
        """Return the claim numbers of all that has not been collected."""
        with self._handover:
            numbers = {task.claim_number for task in self._queued}
            for first in self._running.values():
                task: SendTask | None = first
                while task is not None:
                    numbers.add(task.claim_number)
                    task = task.next_task
            return numbers

    def longest(self) -> float:
        """Return the seconds since the oldest send under way started; 0.0 when there is none."""
        now = time.monotonic()
        return max((now - task.started for task in self._running.values()), default=0.0)

    def start(self, task: SendTask) -> None:
        """Send the task in a free slot."""
        _mark_started(task)
        if not self._running:
            self._none_before = task.started
        self._running[id(task)] = task
        self._tell_running(len(self._running))
        self._go(task)

    def enqueue(self, task: SendTask) -> None:
        """Send the task as soon as one under way frees its slot, which may have been a moment ago."""
        with self._handover:
            if not self._freed:
                self._queued.append(task)
                return
            self._freed.popleft().next_task = task
            _mark_started(task)
        self._go(task)

    def withdraw(self) -> list[SendTask]:
        """Empty the queue. Returns the tasks that were in it; they do not start any more."""
        with self._handover:
            tasks = list(self._queued)
            self._queued.clear()
            return tasks

    def oldest_start(self) -> float:
        """Return when the oldest send that was not collected started, by time.monotonic(); infinite when none was."""
        return min((task.started for task in self._running.values()), default=float("inf"))

    def wait(self, longest: float, others: Iterable[int] = (), *, for_all: bool = True, low: int = -1) -> set[int]:
        """Wait until a send has ended or is overdue, `longest` seconds at the most, or until one of `others` (file
        descriptors) can be read. Returns those that can.

        `for_all`: False to sleep on when a send was accepted, so that whoever ends it wakes nobody, unless no more than
        `low` tasks are queued.
        """
        if self._bell is None:
            self._bell = Bell()
        # First: what ends from now on rings.
        self._waits, self._waits_for_all, self._low = True, for_all, low
        if (
            (for_all and self._ended)
            or len(self._queued) <= low
            or not all(task.accepted for task in tuple(self._ended))
        ):
            longest = 0.0
        overdue = self._none_before + self._limit - time.monotonic()
        ready = readable((self._bell.fileno(), *others), max(0.0, min(longest, overdue)))
        self._waits = False
        if self._bell.fileno() in ready:
            self._bell.clear()
        return ready

    def ended(self) -> list[SendTask]:
        """Return all that have ended since the last call, without waiting; the overdue are given up."""
        found: list[SendTask] = []
        while self._ended:
            self._take(self._ended.popleft(), found)
        now = time.monotonic()
        if self._none_before + self._limit < now:
            overdue = [task for task in self._running.values() if task.started + self._limit < now]
            found += [task for task in overdue if self._give_up(task, now)]
            self._none_before = min(self.oldest_start(), now)
        self._tell_running(len(self._running))
        return found

    def collect(self, longest: float) -> list[SendTask]:
        """Wait until a send ends, `longest` seconds at the most. Returns all that have; the overdue are given up."""
        self.wait(longest)
        return self.ended()

    def close(self) -> None:
        """End the threads that are not busy."""
        self._threads.close()

    def _take(self, task: SendTask, found: list[SendTask]) -> None:
        if self._running.pop(id(task), None) is None:
            return  # it had been given up
        with self._handover:
            if self._freed and self._freed[0] is task:
                self._freed.popleft()
        if task.next_task is not None:
            self._running[id(task.next_task)] = task.next_task
        known = self.typical_seconds if self.typical_seconds < float("inf") else task.seconds
        self.typical_seconds = 0.8 * known + 0.2 * task.seconds
        found.append(task)

    def _give_up(self, task: SendTask, now: float) -> bool:
        with self._handover:
            if task.ended:  # just now: it is in the queue of those that ended
                return False
            task.ended = True
        task.seconds = now - task.started
        task.answers = [Unavailable(f"no answer within {self._sink.options.timeout:g} s")] * len(task.claimed)
        self._running.pop(id(task))
        self._threads.abandon()
        return True

    def _go(self, task: SendTask) -> None:
        self._threads.submit(lambda: self._run(task))

    def _run(self, first: SendTask) -> None:
        """In a thread: send the task, and then each that starts in its slot."""
        task: SendTask | None = first
        while task is not None:
            self._note_start(task)
            task = self._end(task, self._send(task))  # not task.next_task, which `enqueue` may have set since

    def _note_start(self, task: SendTask) -> None:
        if ids := [each.id for each in task.claimed if each.prefetched]:
            self._on_start(ids)

    def _end(self, task: SendTask, answers: list[Receipt | Exception]) -> SendTask | None:
        """End a task. Returns the one that has started in its slot."""
        with self._handover:
            if task.ended:
                return None  # given up, and its slot is another's
            task.ended, task.answers = True, answers
            task.seconds = time.monotonic() - task.started
            next_task = None
            if task.accepted and self._queued:
                next_task = task.next_task = self._queued.popleft()
                _mark_started(next_task)
            elif task.accepted:
                self._freed.append(task)
            # Before `enqueue` may give it a next task, which another thread sends: that one must end after it.
            self._ended.append(task)
        wanted = self._waits_for_all or not task.accepted or len(self._queued) <= self._low
        if self._waits and wanted and self._bell is not None:
            self._waits = False
            self._bell.ring()
        return next_task

    def _send(self, task: SendTask) -> list[Receipt | Exception]:
        try:
            answers: list[Receipt | Exception] = []
            if self._many:
                answers += self._sink.send_many(self._deliveries(task))
            else:
                answers.append(self._sink.send(self._delivery(task.claimed[0], task)))
            if len(answers) != len(task.claimed):
                raise RuntimeError(f"{len(answers)} answers to {len(task.claimed)} deliveries")
        except Exception as error:  # noqa: BLE001 - the three kinds are told apart when it is settled
            return [error] * len(task.claimed)
        return answers

    def _deliveries(self, task: SendTask) -> Sequence[Delivery]:
        return LazyDeliveries(lambda each: self._delivery(each, task), task.claimed)

    def _delivery(self, each: Claimed, task: SendTask) -> Delivery:
        return to_delivery(each, task.receipts.get(each.id, {}), self._retry)


def _mark_started(task: SendTask) -> None:
    task.started = time.monotonic()
