"""The deliveries of one sink that a process has claimed, until they are settled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence

from handlers import Receipt
from receiver.delivery.claim_budget import weight
from receiver.delivery.send_task import SendTask
from receiver.ledger.deliveries.claimed import Claimed


class HeldClaims:
    """Safe to call from any thread. A held claim is in one of five places, which other modules only read:

    loading     its body is read from the ledger
    waiting     a thread may send it, the longest waiting first
    running     it is being sent, in a task of at most `batch` deliveries
    ended       its task has ended, and is to be settled
    unstarted   it does not start in this process, and is to be handed back
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._lock = threading.Lock()
        self._all: set[Claimed] = set()
        self.waiting: deque[Claimed] = deque()
        self.running: dict[int, SendTask] = {}  # by identity; the oldest first
        self.ended: list[SendTask] = []
        self.unstarted: list[Claimed] = []
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._all)

    def load(self, claimed: Sequence[Claimed]) -> None:
        """Hold deliveries whose bodies are to be loaded."""
        with self._lock:
            self._all.update(claimed)

    def add(self, claimed: Sequence[Claimed]) -> bool:
        """Let deliveries wait for a thread. After `close` they are not held, and False is returned."""
        with self._lock:
            if self._closed:
                self._all.difference_update(claimed)
            else:
                self._all.update(claimed)
                self.waiting.extend(claimed)
            return not self._closed

    def close(self) -> None:
        """Add nothing more, and start nothing."""
        with self._lock:
            self._closed = True
        self.withdraw()

    def withdraw(self, claimed: Collection[Claimed] | None = None) -> None:
        """Let these deliveries, or all that wait, not start in this process."""
        with self._lock:
            self.unstarted += self.waiting if claimed is None else claimed
            if claimed is None:
                self.waiting.clear()

    def begin(self, now: float, ledger_now: float) -> SendTask | None:
        """Return what to send now. None if no waiting delivery may still start at `ledger_now`."""
        with self._lock:
            batch: list[Claimed] = []
            while self.waiting and len(batch) < self._batch:
                each = self.waiting.popleft()
                (batch if ledger_now < each.start_by else self.unstarted).append(each)
            if not batch:
                return None
            task = SendTask(batch, now)
            self.running[id(task)] = task
            return task

    def end(self, task: SendTask, answers: Sequence[Receipt | Exception], now: float) -> bool:
        """End a task with what its sink returned. False if it has ended before."""
        with self._lock:
            if self.running.pop(id(task), None) is None:
                return False
            task.answers, task.seconds = answers, now - task.started
            self.ended.append(task)
            return True

    def overdue(self, began_before: float) -> list[SendTask]:
        """Return the running tasks that began before this time."""
        with self._lock:
            return [task for task in self.running.values() if task.started < began_before]

    def to_settle(self) -> tuple[list[SendTask], list[Claimed]]:
        """Return the ended tasks, and what is to be handed back. They are held until `forget`."""
        with self._lock:
            return list(self.ended), list(self.unstarted)

    def forget(self, tasks: Collection[SendTask], unstarted: Collection[Claimed]) -> None:
        """Forget tasks that are settled, and deliveries that are handed back."""
        gone = {*unstarted, *(each for task in tasks for each in task.claimed)}
        with self._lock:
            self._all -= gone
            self.ended = [task for task in self.ended if task not in tasks]
            self.unstarted = [each for each in self.unstarted if each not in gone]

    def all(self) -> list[Claimed]:
        """Return all held deliveries."""
        with self._lock:
            return list(self._all)

    def size(self) -> tuple[int, int]:
        """Return how many deliveries are held, and their weight."""
        with self._lock:
            return len(self._all), sum(map(weight, self._all))

    def oldest_start(self, now: float) -> float:
        """Return when the oldest running task began; `now` if none runs, since one may start."""
        with self._lock:
            return next((task.started for task in self.running.values()), now)
