"""What RQ keeps of a wake-up: keys and fields, as RQ writes them, without RQ. Knows neither flags nor workers.

Who only wakes, above all the receiver, thus needs not import RQ. A test compares all of this with what RQ itself makes.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

# The queue of the workers that take events from the inbox into the ledger.
DISPATCH: Final = "dispatch"
# Seconds after which a job's body is told to stop, so that a busy queue gets a new job with a fresh timeout.
TIME_SLICE: Final = 5.0
# Seconds that a job may take at the most: its time slice, and the longest wait that its last batch may contain.
JOB_TIMEOUT: Final = 60.0

# The name that a job carries. It is compared, never imported.
FUNCTION: Final = "receiver.wakeups.work"
DESCRIPTION: Final = "wake-up"
FAILURE_TTL: Final = 60
# The set of all queues.
QUEUES_KEY: Final = "rq:queues"


def deliver_queue(sink: str) -> str:
    """Return the queue of the sink named `sink`."""
    return f"deliver:{sink}"


def queue_key(queue: str) -> str:
    """Return the key of the list of a queue's jobs."""
    return f"rq:queue:{queue}"


def job_key(job_id: str) -> str:
    """Return the key of a job's record."""
    return f"rq:job:{job_id}"


def job_data(function: str) -> bytes:
    """Return a job's data: function, instance, arguments and keywords, as RQ's JSON serializer writes them."""
    return f'["{function}", null, [], {{}}]'.encode()


@lru_cache(maxsize=1024)
def job_fields(queue: str) -> tuple[Any, ...]:
    """Return the fields of a wake-up of `queue`, names and values alternating, without its times."""
    fields = {
        "data": zlib.compress(job_data(FUNCTION)),
        "retries_left": 3,
        "retry_intervals": "[0]",
        "origin": queue,
        "description": DESCRIPTION,
        "timeout": int(JOB_TIMEOUT),
        "result_ttl": 0,
        "failure_ttl": FAILURE_TTL,
        "status": "queued",
    }
    return tuple(part for field in fields.items() for part in field)


def timestamp() -> str:
    """Return the present time as RQ writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
