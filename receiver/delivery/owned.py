"""The deliveries of one sink that a process has claimed, until they are settled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence

from receiver.delivery.room import weight
from receiver.delivery.send_task import SendTask
from receiver.ledger.deliveries.claimed import Claimed


class OwnedDeliveries:
    """Safe to call from any thread. An owned delivery is in one of four places:

    loading     its body is read from the ledger
    waiting     a thread may send it, the longest waiting first
    running     it is being sent, in a task of at most `batch` deliveries
    unstarted   it does not start in this process, and is to be handed back
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._lock = threading.Lock()
        self._all: set[Claimed] = set()
        self._waiting: deque[Claimed] = deque()
        self._running: dict[int, SendTask] = {}  # by identity; the oldest first
        self._unstarted: list[Claimed] = []
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._all)

    def own(self, claimed: Sequence[Claimed]) -> None:
        """Own deliveries whose bodies are to be loaded."""
        with self._lock:
            self._all.update(claimed)

    def add(self, claimed: Sequence[Claimed]) -> bool:
        """Let deliveries wait for a thread. After `close` they are not owned, and False is returned."""
        with self._lock:
            if self._closed:
                self._all.difference_update(claimed)
            else:
                self._all.update(claimed)
                self._waiting.extend(claimed)
            return not self._closed

    def close(self) -> None:
        """Add nothing more, and start nothing."""
        with self._lock:
            self._closed = True
        self.withdraw()

    def withdraw(self, claimed: Collection[Claimed] | None = None) -> None:
        """Let these deliveries, or all that wait, not start in this process."""
        with self._lock:
            self._unstarted += self._waiting if claimed is None else claimed
            if claimed is None:
                self._waiting.clear()

    def begin(self, now: float, ledger_now: float) -> SendTask | None:
        """Return what to send now. None if no waiting delivery may still start at `ledger_now`."""
        with self._lock:
            batch: list[Claimed] = []
            while self._waiting and len(batch) < self._batch:
                each = self._waiting.popleft()
                (batch if ledger_now < each.start_by else self._unstarted).append(each)
            if not batch:
                return None
            task = SendTask(batch, now)
            self._running[id(task)] = task
            return task

    def end(self, task: SendTask) -> bool:
        """End a task. False if `overdue` has ended it."""
        with self._lock:
            return self._running.pop(id(task), None) is not None

    def overdue(self, began_before: float) -> list[SendTask]:
        """End and return the tasks that began before this time."""
        with self._lock:
            found = [task for task in self._running.values() if task.started < began_before]
            for task in found:
                del self._running[id(task)]
            return found

    def forget(self, claimed: Collection[Claimed]) -> None:
        """Forget deliveries that are settled or handed back."""
        gone = set(claimed)
        with self._lock:
            self._all -= gone
            self._unstarted = [each for each in self._unstarted if each not in gone]

    def all(self) -> list[Claimed]:
        """Return all owned deliveries."""
        with self._lock:
            return list(self._all)

    def unstarted(self) -> list[Claimed]:
        """Return what is to be handed back."""
        with self._lock:
            return list(self._unstarted)

    def size(self) -> tuple[int, int]:
        """Return how many deliveries are owned, and their weight."""
        with self._lock:
            return len(self._all), sum(map(weight, self._all))

    def oldest_start(self, now: float) -> float:
        """Return when the oldest running task began; `now` if none runs."""
        with self._lock:
            return next((task.started for task in self._running.values()), now)

    @property
    def waiting(self) -> bool:
        """Whether some wait for a thread."""
        return bool(self._waiting)

    @property
    def running(self) -> bool:
        """Whether some are being sent."""
        return bool(self._running)
