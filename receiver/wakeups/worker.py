"""The consumer of wake-ups: RQ's SimpleWorker with its own loop, for one queue, in the main thread of a process.

What it adds to RQ: only wake-ups run, whatever a record in Redis names; no commands by pub/sub; a stop ends the wait
for a job at once; and it survives a Redis that is unavailable, restarted or full. This is the only module that imports
rq.
"""
# mypy: disable-error-code="no-untyped-call"
# Parts of rq are untyped.

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Final

import redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException
from rq.utils import decode_redis_hash

from receiver.domain.time_limits import JOB_TIMEOUT
from receiver.errors import error_location
from receiver.runtime.redis_client import connect
from receiver.runtime.stop import StopRequests
from receiver.wakeups import FAILURE_TTL, JOB_DATA, RECORD_TTL, flag_key

# Seconds of one wait for a job, and after which a silent Redis counts as unavailable.
WAIT: Final = 5
SILENCE: Final = 7
# Longest pause between two tries to reach Redis, and seconds that it has to answer at a stop.
_MAX_PAUSE: Final = 2.0
_LAST_WORD: Final = 1.0

_UNAVAILABLE: Final = (redis.ConnectionError, redis.TimeoutError)

log = logging.getLogger("runhook.worker")


class WakeUp(Job):
    """A job that does the worker's own work and nothing else. Of its record in Redis only the data is read, and that
    must be Runhook's to the byte."""

    work: Callable[[], None]

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002, ARG002
        super().__init__(id, connection, JSONSerializer)  # RQ's default is pickle, which runs what it reads

    def restore(self, raw_data: Any) -> None:
        """Check the record. Raises NoSuchJobError for what is not a wake-up, so that RQ skips it."""
        try:
            data = zlib.decompressobj().decompress(decode_redis_hash(raw_data)["data"], 256)  # never unpacks a bomb
        except (KeyError, zlib.error):
            raise NoSuchJobError(f"no data in {self.key}") from None
        if data != JOB_DATA:
            log.warning("a job in Redis is not a wake-up, dropped it: %.80r", self.id)
            raise NoSuchJobError(f"not a wake-up: {self.key}")
        self.data, self.timeout, self.result_ttl, self.failure_ttl = data, JOB_TIMEOUT, 0, FAILURE_TTL

    def perform(self) -> None:
        """Do the work of the worker that took it. RQ gives the record of a running job no end."""
        self.connection.expire(self.key, RECORD_TTL)
        self.work()


class WakeUpWorker(SimpleWorker):
    """RQ's worker for one queue. `work`: what each job does. `stops`: the signal handler, true after a stop."""

    job_class = WakeUp
    dequeue_timeout = WAIT
    connection_timeout = SILENCE
    max_connection_wait_time = _MAX_PAUSE
    _waits = False

    def __init__(
        self,
        queue: str,
        client: redis.Redis,
        name: str,
        work: Callable[[], None],
        stops: StopRequests,
        job_timeout: int = JOB_TIMEOUT,
    ) -> None:
        super().__init__([queue], name=name, connection=client, worker_ttl=60, serializer=JSONSerializer)
        self._work, self._stops, self._job_timeout = work, stops, job_timeout

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop: at once while waiting for a job, else after the job, which sees `stops`."""
        self._stops(signum, frame)
        if self._waits:
            raise StopRequested

    def check_for_suspension(self, burst: bool) -> None:
        """Never pause: one key by another user of this Redis would stop dispatch, and no stop would end RQ's wait."""

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """Wait for a job, until a stop."""
        self._waits = True
        try:
            if self._stops:
                raise StopRequested
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self._waits = False

    def execute_job(self, job: Any, queue: Any) -> None:
        """Do the worker's work as this job."""
        job.origin, job.work, job.timeout = queue.name, self._work, self._job_timeout
        super().execute_job(job, queue)

    def run_maintenance_tasks(self) -> None:
        """Clean up after killed workers. What they had taken off the queue is dropped: RQ would resume it."""
        self.connection.delete(self.queues[0].intermediate_queue_key)
        super().run_maintenance_tasks()

    def subscribe(self) -> None:
        """Take no commands by pub/sub: anyone who reaches Redis could send them."""

    def teardown(self) -> None:
        """Remove the worker's record. A Redis that hangs must not hold up a stop."""
        self.connection.connection_pool.disconnect()
        self.connection.connection_pool.connection_kwargs["socket_timeout"] = _LAST_WORD
        super().teardown()


def serve(
    queue: str,
    redis_url: str,
    name: str,
    work: Callable[[], None],
    stops: StopRequests,
    job_timeout: int = JOB_TIMEOUT,
) -> None:
    """Run `work` at the start and for each wake-up of `queue`, in the main thread, until a stop.

    While Redis is full or cannot be used, it runs every few seconds. Its errors are logged and end only the job.
    `name`: unique to this process. `stops`: the handler of signals, which RQ's loop installs. `job_timeout`: seconds.
    """
    life, pause, trouble = 0, 0.1, ""
    while not stops:
        life, started, reason = life + 1, time.monotonic(), ""
        client = connect(redis_url, timeout=SILENCE, connect_timeout=2.0, retries=0)
        job = partial(_guarded, queue, client, work, job_timeout)
        try:
            job()
            WakeUpWorker(queue, client, f"{name}.{life}", job, stops, job_timeout).work(logging_level="CRITICAL")
        except _UNAVAILABLE:  # which the process reports
            pass
        except RedisError as error:
            reason = type(error).__name__
        if not stops:
            lasted = time.monotonic() - started > 2 * WAIT
            if reason and (lasted or reason != trouble):
                log.warning("%s: Redis can't be used now (%s); trying again", queue, reason)
            trouble, pause = reason, 0.1 if lasted else min(2 * pause, _MAX_PAUSE)
            until = time.monotonic() + pause
            while not stops and time.monotonic() < until:
                time.sleep(0.05)
        client.close()


def _guarded(queue: str, client: redis.Redis, work: Callable[[], None], job_timeout: int) -> None:
    """Run `work`. What it raises ends here: the work is still where it was, and is found again."""
    try:
        work()
    except (*_UNAVAILABLE, redis.OutOfMemoryError):
        return
    except JobTimeoutException:
        log.error("%s: a job took more than %d s and was cut off", queue, job_timeout)
    except Exception as error:
        log.error("%s: a job failed: %s", queue, error_location(error))
        log.debug("%s: the failure in full", queue, exc_info=True)
    else:
        return
    with suppress(RedisError):
        client.delete(flag_key(queue))
