"""The worker: one queue, in this process, until it is asked to stop. What its jobs do is a JobBody.

RQ's own loop is not used. That one loses a job when it is stopped or killed at the wrong moment, quits when Redis goes
away, takes commands by pub/sub from all who can publish, and spends 18 round trips on a job; here it is three.
The keys are RQ's, so that its tools show what is going on.
"""
# mypy: disable-error-code="no-untyped-call"
# rq leaves parts of itself untyped.

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from rq import Queue, SimpleWorker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker_registration import register

from receiver.runtime.process import Bell, error_location, readable
from receiver.runtime.redis_client import connect
from receiver.wakeups.body import JobBody
from receiver.wakeups.cleanup import clear_dead, clear_spoilt, forget
from receiver.wakeups.flags import RECORD_TTL, lower_flag, wake
from receiver.wakeups.job import NotAWakeUp, RunhookJob, RunhookQueue
from receiver.wakeups.record import JOB_TIMEOUT, queue_key
from receiver.wakeups.shared_wait import POLL, SILENCE, SharedWait

log = logging.getLogger("runhook.worker")

_POLL = POLL  # seconds of one blocking wait for a job
_SILENCE = SILENCE  # seconds beyond it after which a silent Redis counts as gone
# Seconds that an idle worker's record outlives its last heartbeat, and between two of them. An idle worker holds
# nothing: who dies in a job is found by the job's own record, which lives for its timeout.
_WORKER_TTL = 190
_HEARTBEAT = 60.0
_MAX_WAIT = 2.0  # seconds between two tries to reach a Redis that is away (stock RQ: 60)


class Stop:
    """What a job's body asks between two batches: must it end? True when the worker was asked to stop, or when this
    job's time slice is over. The body then hands back what it holds, lowers the flag and returns.

    `time_slice`: seconds that one job may work before it ends.
    """

    def __init__(self, time_slice: float = float("inf"), clock: Callable[[], float] = time.monotonic) -> None:
        self.asked = False
        self._bell = Bell()
        self._time_slice = time_slice
        self._clock = clock
        self._end = clock() + time_slice

    def ask(self) -> None:
        """Stop the worker, after the job under way; a wait for one ends at once. Any thread may call it, and a signal
        handler."""
        self.asked = True
        self._bell.ring()

    def fileno(self) -> int:
        """Return what can be read once the worker was asked to stop."""
        return self._bell.fileno()

    def begin(self) -> None:
        """Begin the time slice of a new job."""
        self._end = self._clock() + self._time_slice

    @property
    def left(self) -> float:
        """Seconds that are left, 0.0 when the body must end: the longest that it may wait for more work."""
        return 0.0 if self.asked else max(0.0, self._end - self._clock())

    def __call__(self) -> bool:
        return self.left <= 0.0


class JobTimeout(BaseException):
    """A job outlived its timeout. Not an Exception, so that no body takes it for a failure of its sink."""


@contextlib.contextmanager
def _alarm(seconds: float, *, enabled: bool) -> Iterator[None]:
    """Raise JobTimeout in the block after `seconds`. Code in C is not interrupted: for that there is the supervisor."""
    if not enabled:
        yield
        return

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise JobTimeout

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class RunhookWorker(SimpleWorker):
    """RQ's worker for one queue, with a loop of our own.

    `timeout`: seconds that a job may take. `on_job`: called at a job's start with when it must end (by
    time.monotonic), and 0.0 at its end. `alarm`: cuts off what takes longer; only in the main thread. `shared`: in
    which it waits with others once it has waited in vain alone.
    """

    queue_class = RunhookQueue
    job_class = RunhookJob
    max_connection_wait_time = _MAX_WAIT

    def __init__(
        self,
        queue: str,
        client: redis.Redis,
        name: str,
        *,
        body: Callable[[], None],
        timeout: float = JOB_TIMEOUT,
        on_job: Callable[[float], None] = lambda _deadline: None,
        alarm: bool = True,
        shared: SharedWait | None = None,
    ) -> None:
        super().__init__(
            [queue],
            name=name,
            connection=client,
            worker_ttl=_WORKER_TTL,
            default_result_ttl=0,
            serializer=JSONSerializer,
        )
        self.queue: Queue = self.queues[0]
        self._body = body
        self._timeout = timeout
        self._on_job = on_job
        self._alarm = alarm
        self._shared = shared
        self._idle = False
        self._next_beat = 0.0

    @property
    def connection_timeout(self) -> int:
        """Seconds after which a silent Redis counts as gone; longer than the blocking wait."""
        return int(_POLL + _SILENCE)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 - RQ's signature
        """Seconds that a job's records live without a sign of its worker."""
        return int(self._timeout) + 2

    def serve(self, stop: Stop) -> None:
        """Run jobs until `stop` is asked, which is checked between two jobs only. Raises redis.RedisError.

        A wake-up that comes in the moment of a stop may be left behind, for `clear_dead`.
        """
        while not stop.asked:
            job = self._next_job(stop)
            if job is not None:
                self._run(job, stop)

    def _beat(self, pipeline: Any, state: str, lifetime: int) -> None:
        """Write the worker's whole record: while Redis hung it may have lapsed."""
        self.birth_date = self.birth_date or now()
        self.last_heartbeat = now()
        pipeline.hset(self.key, mapping={**self.serialize(), "state": state})
        pipeline.expire(self.key, lifetime)
        register(self, pipeline)
        self._next_beat = time.monotonic() + _HEARTBEAT

    def _beat_idle(self) -> None:
        """Let the record live on; write it when there is none."""
        self._next_beat = time.monotonic() + _HEARTBEAT
        if not self.connection.expire(self.key, self.worker_ttl):
            with self.connection.pipeline() as pipeline:
                self._beat(pipeline, "idle", self.worker_ttl)
                pipeline.execute()

    def _next_job(self, stop: Stop) -> RunhookJob | None:
        """Return the next wake-up; None after a short wait, at a stop, or for something that is no wake-up."""
        if time.monotonic() >= self._next_beat:
            self._beat_idle()
        intermediate = self.queue.intermediate_queue_key
        if self._shared is not None and self._idle:
            raw_id = self._shared.wait(self.queue.key, stop, max(0.0, self._next_beat - time.monotonic()))
        else:
            raw_id = self._next_id(stop)
        self._idle = raw_id is None
        if raw_id is None:
            return None
        try:
            job = RunhookJob(raw_id.decode(), connection=self.connection, serializer=JSONSerializer)
            job.refresh()
        except (NoSuchJobError, NotAWakeUp, ResponseError, ValueError) as error:
            if not isinstance(error, NoSuchJobError):
                log.warning("%s: dropped a job that is no wake-up of ours (%.80r)", self.queue.name, raw_id)
            self.connection.lrem(intermediate, 0, raw_id)  # type: ignore[arg-type]
            self.connection.delete(Job.redis_job_namespace_prefix.encode() + raw_id)
            wake(self.connection, self.queue.name, force=True)  # it may have stood where a wake-up would
            return None
        job.origin = self.queue.name
        job.timeout = self._timeout
        job.body = self._body
        return job

    def _next_id(self, stop: Stop) -> bytes | None:
        """Move the next job into the intermediate queue and return its id; None after a short wait, or at a stop."""
        pool = self.connection.connection_pool
        connection: Any = pool.get_connection()
        try:
            lists = (self.queue.key, self.queue.intermediate_queue_key)
            connection.send_command("BLMOVE", *lists, "LEFT", "RIGHT", _POLL)
            answer = connection._get_socket()
            if answer is not None and answer.fileno() not in readable(
                [answer.fileno(), stop.fileno()], _POLL + _SILENCE
            ):
                connection.disconnect()
                if stop.asked:
                    return None
                raise redis.TimeoutError("no answer to the wait for a job")
            found: bytes | None = connection.read_response()
            return found
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _run(self, job: RunhookJob, stop: Stop) -> None:
        """Record that the job has started, run the body, remove the job."""
        self._on_job(time.monotonic() + self._timeout)
        try:
            lifetime = self.get_heartbeat_ttl(job)
            with self.connection.pipeline() as pipeline:
                execution = Execution.create(job, lifetime, pipeline=pipeline, worker_name=self.name)
                self._beat(pipeline, "busy", lifetime)
                job.prepare_for_execution(self.name, pipeline=pipeline)
                pipeline.expire(job.key, lifetime + RECORD_TTL)
                pipeline.lrem(self.queue.intermediate_queue_key, 0, job.id)
                pipeline.execute()
            self._perform(job, stop)
            with self.connection.pipeline() as pipeline:
                execution.delete(job, pipeline)
                forget(pipeline, job.id)
                self.increment_successful_job_count(pipeline)
                self._beat(pipeline, "idle", self.worker_ttl)
                pipeline.execute()
        finally:
            self._on_job(0.0)

    def _perform(self, job: RunhookJob, stop: Stop) -> None:
        """Run the body. What it raises ends here: the work is still where it was, and the clock wakes it again.

        Raises redis.RedisError when Redis is away, for the body or for the flag that is to be lowered.
        """
        stop.begin()
        try:
            with _alarm(self._timeout, enabled=self._alarm):
                job.perform()
        except JobTimeout:
            lower_flag(self.connection, self.queue.name)
            log.error("%s: a job took more than %g s and was cut off", self.queue.name, self._timeout)
        except (redis.ConnectionError, redis.TimeoutError):
            raise
        except Exception as error:
            lower_flag(self.connection, self.queue.name)
            log.error("%s: a job failed: %s", self.queue.name, error_location(error))
            log.debug("%s: the failure in full", self.queue.name, exc_info=True)


def run_worker(
    queue: str,
    body: JobBody,
    redis_url: str,
    name: str,
    *,
    stop: Stop,
    predecessors: Iterable[str] = (),
    on_job: Callable[[float], None] = lambda _deadline: None,
    on_ready: Callable[[], None] = lambda: None,
    alarm: bool = True,
    shared: SharedWait | None = None,
) -> bool:
    """Serve one queue in this process until `stop` is asked, or `body` is worn out: then return True.

    Redis may go away and come back meanwhile, or be full: every few seconds `body.run_without_redis` is called then, or
    `body.run_while_full`, within the limits of a job. `name`: unique to this process. `predecessors`: names of dead
    workers whose traces are removed first. `on_job`: see RunhookWorker. `on_ready`: called each time that Redis was
    reached and the worker is about to serve. `alarm`: a job's timeout is an alarm signal, which only the main thread
    can have; without it, only the supervisor sees that a job takes too long. `shared`: see RunhookWorker.
    """
    worn_out = False

    def perform() -> None:
        nonlocal worn_out
        body.run(stop)
        if body.worn_out:
            worn_out = True
            stop.ask()

    client = connect(redis_url, timeout=_POLL + _SILENCE, connect_timeout=2.0, retries=0)
    pause, away, life, dead = 0.1, False, 0, list(predecessors)
    while not stop.asked:
        try:
            for each in dead:
                clear_dead(client, queue, each)
            dead, life = [name], life + 1  # what this life can't remove at its end, the next one does
            worker = RunhookWorker(
                *(queue, client, f"{name}.{life}"),
                body=perform,
                timeout=body.job_timeout,
                on_job=on_job,
                alarm=alarm,
                shared=shared,
            )
            worker.register_birth()
            wake(client, queue, force=True)  # poll at once, whatever became of earlier wake-ups
            if away:
                log.warning("%s: Redis is back", queue)
            pause, away = 0.1, False
            on_ready()
            worker.serve(stop)
        except RedisError as error:
            if shared is not None:
                shared.leave(queue_key(queue))  # the next life waits for its first job alone
            with contextlib.suppress(RedisError):
                if clear_spoilt(client, queue, error):
                    continue
            if not away and not stop.asked:
                log.warning("%s: Redis can't be used now (%s); trying again", queue, type(error).__name__)
            away = True
            client.connection_pool.disconnect()
            _sleep(pause, stop)
            if not stop.asked:
                full = isinstance(error, OutOfMemoryError)
                work = body.run_while_full if full else body.run_without_redis
                with _watched(queue, body.job_timeout, on_job, alarm=alarm):
                    stop.begin()
                    work(stop)
            pause = min(pause * 2, _MAX_WAIT)
    client.close()
    unused = shared is not None and shared.leave(queue_key(queue))
    with contextlib.suppress(RedisError), connect(redis_url, timeout=1.0, connect_timeout=1.0, retries=0) as last:
        clear_dead(last, queue, name)  # briefly: a Redis that hangs must not hold up a stop
        if unused:
            wake(last, queue, force=True)
    return worn_out


@contextlib.contextmanager
def _watched(queue: str, timeout: float, on_job: Callable[[float], None], *, alarm: bool) -> Iterator[None]:
    """Limit the block, work that no wake-up has asked for, as a job is limited. What it raises ends here."""
    on_job(time.monotonic() + timeout)
    try:
        with _alarm(timeout, enabled=alarm):
            yield
    except JobTimeout:
        log.error("%s: a turn without a wake-up took more than %g s and was cut off", queue, timeout)
    except Exception as error:
        log.error("%s: a turn without a wake-up failed: %s", queue, error_location(error))
        log.debug("%s: the failure in full", queue, exc_info=True)
    finally:
        on_job(0.0)


def _sleep(seconds: float, stop: Stop) -> None:
    """Sleep in short pieces, so that a stop is noticed."""
    until = time.monotonic() + seconds
    while not stop.asked and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
