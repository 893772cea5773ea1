"""What a wake-up is in RQ's terms, and why nothing else runs. Knows neither flags nor workers.

Whatever a stranger with write access to Redis can do with RQ (name any importable function, pickled data, callbacks,
webhooks, dependents, repeats) is cut off here: a record is read for its data only, the data must be ours to the byte,
and the fields that make RQ act are never read.
"""
# mypy: disable-error-code="no-untyped-call"
# rq leaves parts of itself untyped.

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, ClassVar

from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import decode_redis_hash

from receiver.wakeups.record import DESCRIPTION, FAILURE_TTL, FUNCTION, job_data


class NotAWakeUp(Exception):
    """Something in RQ's lists that is no wake-up of ours."""


class RunhookJob(Job):
    """A job that runs the worker's own body and nothing else, whatever its record in Redis says."""

    # The names that a job may carry. A name is compared, never imported.
    FUNCTIONS: ClassVar[frozenset[str]] = frozenset({FUNCTION})

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
        if data not in {job_data(name) for name in self.FUNCTIONS}:
            raise NotAWakeUp
        self.data = data
        self.description, self.result_ttl, self.failure_ttl = DESCRIPTION, 0, FAILURE_TTL

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
