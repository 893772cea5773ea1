"""What a wake-up is in RQ's terms, and why nothing else runs. Knows neither flags nor workers.

Whatever a stranger with write access to Redis can do with RQ (name any importable function, pickled data, callbacks,
webhooks, dependents, repeats) is cut off here: a record is read for its data only, the data must be ours to the byte,
and the fields that make RQ act are never read.
"""
# mypy: disable-error-code="no-untyped-call"
# rq leaves parts of itself untyped.

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

from rq import Queue, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import decode_redis_hash

# The queue of the workers that take events from the inbox into the ledger.
DISPATCH: Final = "dispatch"
# Seconds that a job may take at the most: its time slice, and the longest wait that its last batch may contain.
JOB_TIMEOUT: Final = 60.0

_DESCRIPTION = "wake-up"
_FAILURE_TTL = 60
_FUNCTION = "receiver.wakeups.work"


def deliver_queue(sink: str) -> str:
    """Return the queue of the sink named `sink`."""
    return f"deliver:{sink}"


class NotAWakeUp(Exception):
    """Something in RQ's lists that is no wake-up of ours."""


class RunhookJob(Job):
    """A job that runs the worker's own body and nothing else, whatever its record in Redis says."""

    # The names that a job may carry. A name is compared, never imported.
    FUNCTIONS: ClassVar[frozenset[str]] = frozenset({_FUNCTION})

    body: Callable[[], None] | None = None

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:  # noqa: A002, ARG002
        super().__init__(id, connection, JSONSerializer)  # RQ's default is pickle, which runs what it reads

    def restore(self, raw_data: Any) -> None:
        """Read the record's data; every other field keeps its harmless default.

        Raises NoSuchJobError for a record without data, NotAWakeUp for data that is not ours.
        """
        packed = decode_redis_hash(raw_data).get("data")
        if packed is None:
            raise NoSuchJobError(f"no data in {self.key}")
        try:
            data = zlib.decompressobj().decompress(packed, 256)  # ours is shorter; a bomb is not unpacked
        except zlib.error:
            raise NotAWakeUp from None
        if data not in {_data(name) for name in self.FUNCTIONS}:
            raise NotAWakeUp
        self.data = data
        self.description, self.result_ttl, self.failure_ttl = _DESCRIPTION, 0, _FAILURE_TTL

    @property
    def func(self) -> Callable[[], None]:
        """The body that the worker gave to this job. Raises NotAWakeUp when the name is not on the list."""
        if self.func_name not in self.FUNCTIONS or self.body is None:
            raise NotAWakeUp
        return self.body

    def _execute(self) -> None:
        self.func()

    # RQ's own code asks for these in many places; a wake-up has none of them.
    success_callback = failure_callback = stopped_callback = None
    has_rate_limit = False

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """RQ would call any URL that the record names."""


class RunhookQueue(Queue):
    """A queue whose jobs have no dependents."""

    job_class = RunhookJob

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """RQ would enqueue whatever jobs a record names."""
        return {}

    def enqueue_dependents(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """RQ would enqueue whatever jobs a record names."""
        return {}


@functools.cache
def _data(function: str) -> bytes:
    """Return a job's data: function, instance, arguments and keywords, as RQ's JSON serializer writes them."""
    return bytes(JSONSerializer.dumps([function, None, [], {}]))


class _NoConnection:
    """A placeholder where RQ insists on a connection although nothing is sent."""


_NO_CONNECTION: Any = _NoConnection()


@functools.lru_cache(maxsize=1024)
def job_fields(queue: str) -> tuple[Any, ...]:
    """Return the fields of a wake-up of `queue` as RQ writes them, names and values alternating, without its times."""
    job = RunhookJob.create(
        _FUNCTION,
        connection=_NO_CONNECTION,
        origin=queue,
        description=_DESCRIPTION,
        result_ttl=0,
        failure_ttl=_FAILURE_TTL,
        timeout=int(JOB_TIMEOUT),
        retry=Retry(max=3),
        serializer=JSONSerializer,
        id="template",
    )
    job.data = _data(_FUNCTION)
    fields = {**job.to_dict(), "status": "queued"}
    del fields["created_at"]
    return tuple(part for name, value in fields.items() if value != "" for part in (name, value))
