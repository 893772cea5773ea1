"""One wait at Redis for the jobs of all idle queues of a process, in place of one for each.

A queue is waited for here while its worker has nothing to do, and by nobody else of the process; whoever gets a job
takes its queue out, and waits alone until it has waited in vain: so what comes while it is busy is left to other
processes, and no wait begins anew for each job. A job is popped here, not moved into RQ's intermediate queue: one that
is lost with this process in that moment is woken again when its flag lapses.

    runhook:wait:<name>     list: what is pushed there ends the wait, which then begins anew with other queues
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Final, Protocol

import redis

from receiver.runtime.background import start_thread
from receiver.runtime.process import Bell, readable
from receiver.runtime.redis_client import connect

# Seconds of one blocking wait, and beyond it after which a silent Redis counts as gone.
POLL: Final = 5.0
SILENCE: Final = 2.0
# Seconds that Redis has to end a wait, and after which what was to end it lapses.
_AT_ONCE: Final = 1.0
_LAPSE: Final = 60


class Stoppable(Protocol):
    """What can be read once somebody is to stop."""

    def fileno(self) -> int:
        """Return its descriptor."""


class _Place:
    """Where the worker of one queue waits. `answer`: the id of a job, or why there will be none."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.answer: bytes | Exception | None = None

    def put(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.bell.ring()

    def take(self) -> bytes | None:
        self.bell.clear()
        answer, self.answer = self.answer, None
        if isinstance(answer, Exception):
            raise answer
        return answer


class SharedWait:
    """The wait of the process called `name`. Threads may call it at the same time, each for its own queue."""

    def __init__(self, redis_url: str, name: str) -> None:
        self._key = f"runhook:wait:{name}"
        self._client = connect(redis_url, timeout=POLL + SILENCE, connect_timeout=2.0, retries=0)
        self._interrupter = connect(redis_url, timeout=_AT_ONCE, connect_timeout=_AT_ONCE, retries=1)
        self._places: dict[str, _Place] = {}
        self._waiting: set[str] = set()
        # The queues in the command that Redis has not answered yet.
        self._asked: frozenset[str] = frozenset()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def wait(self, queue: str, stop: Stoppable, seconds: float) -> bytes | None:
        """Wait for a job in the list `queue`, at most `seconds` or until `stop` can be read. Returns its id, or None.

        Redis is asked on between two calls, until there was a job: call it again, or `leave`. Raises redis.RedisError.
        """
        with self._changed:
            if queue not in self._places:
                self._places[queue] = _Place()
            place = self._places[queue]
            if place.answer is None:
                self._waiting.add(queue)
            if self._thread is None:
                self._thread = start_thread("jobs", self._run)
            self._changed.notify_all()
            unasked = bool(self._asked) and queue in self._waiting - self._asked
        if unasked:
            with suppress(redis.RedisError):  # the wait under way hears of it as well, or ends by itself
                self._interrupt()
        readable([place.bell.fileno(), stop.fileno()], seconds)
        with self._changed:
            return place.take()

    def leave(self, queue: str) -> bool:
        """Wait for `queue` no more. Returns whether a job of it was taken, or may have been, that nobody runs."""
        with self._changed:
            place = self._places.get(queue)
            self._waiting.discard(queue)
            asked = queue in self._asked
        if asked:
            with suppress(redis.RedisError):
                self._interrupt()
        with self._changed:
            gone = self._changed.wait_for(lambda: queue not in self._asked, _AT_ONCE)
            self._places.pop(queue, None)
            return not gone or (place is not None and place.answer is not None)

    def _interrupt(self) -> None:
        """End the wait under way. Raises redis.RedisError."""
        with self._interrupter.pipeline() as pipeline:
            pipeline.delete(self._key)  # it may be anything
            pipeline.rpush(self._key, "1")
            pipeline.expire(self._key, _LAPSE)
            pipeline.execute()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._asked = frozenset()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._asked = frozenset(self._waiting)
            try:
                found: Any = self._client.blpop([self._key, *self._asked], timeout=POLL)
            except Exception as error:  # noqa: BLE001 - those who wait raise it
                self._fail(error)
            else:
                self._hand_over(found)

    def _hand_over(self, found: tuple[bytes, bytes] | None) -> None:
        """Give a job to the worker of its queue."""
        with self._changed:
            queue = found[0].decode() if found else ""
            if found and (place := self._places.get(queue)) is not None:
                self._waiting.discard(queue)
                place.put(found[1])

    def _fail(self, error: Exception) -> None:
        """Tell all who wait that Redis can't be used."""
        with self._changed:
            for queue in self._waiting:
                self._places[queue].put(error)
            self._waiting.clear()
        self._client.connection_pool.disconnect()
        if isinstance(error, redis.ResponseError):
            with suppress(redis.RedisError):  # a stranger may have written it
                self._interrupter.delete(self._key)
