"""The workers' counters, kept in Redis, since each worker is a process of its own and /metrics is in another.

    runhook:metrics:deliver     "<sink>|<outcome>|count", "<sink>|sum" and "<sink>|le|<bound>"
    runhook:metrics:dispatch    "event|<disposition>", "unrouted", "aside" and "unevaluated|<route>"

Losing these hashes is a counter reset, which Prometheus handles.
"""

from __future__ import annotations

import contextlib
import math
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import redis

from receiver.telemetry.receiver import cumulative

KEY: Final = "runhook:metrics:deliver"
DISPATCH_KEY: Final = "runhook:metrics:dispatch"
# Seconds of one send.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LABELS: Final = [*map(str, BOUNDS), "+Inf"]


class _Hash:
    """Counts of one worker process until they are added to a hash in Redis; those of a failed flush are lost. One
    thread may add while another one flushes."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis = client
        self._key = key
        self._lock = threading.Lock()  # of what follows
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def flush(self) -> None:
        """Add the counts to the hash. Never raises RedisError: counting must stop no work."""
        if not self._counts:
            return
        with self._lock:
            counts, seconds = self._counts, self._seconds
            self._counts, self._seconds = Counter(), defaultdict(float)
        with contextlib.suppress(redis.RedisError), self._redis.pipeline(transaction=False) as pipeline:
            for field, count in counts.items():
                pipeline.hincrby(self._key, field, count)
            for field, value in seconds.items():
                pipeline.hincrbyfloat(self._key, field, value)
            pipeline.execute()


class AttemptCounter(_Hash):
    """Counts the attempts of one worker process for one sink."""

    def __init__(self, client: redis.Redis, sink: str) -> None:
        super().__init__(client, KEY)
        self._sink = sink

    def add(self, outcome: str, seconds: float, attempts: int = 1) -> None:
        """Count attempts that took `seconds` each."""
        with self._lock:
            self._counts[f"{self._sink}|{outcome}|count"] += attempts
            self._counts[f"{self._sink}|le|{_LABELS[bisect_left(BOUNDS, seconds)]}"] += attempts
            self._seconds[f"{self._sink}|sum"] += seconds * attempts


class DispatchCounter(_Hash):
    """Counts the events that one dispatcher has recorded."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, DISPATCH_KEY)

    def add(self, disposition: str, *, routed: bool, unevaluated: Iterable[str] = ()) -> None:
        """Count one event. `routed`: it has a delivery. `unevaluated`: the routes whose rule failed on it."""
        self._counts[f"event|{disposition}"] += 1
        if not routed and disposition not in ("update", "repeat", "superseded", "test"):
            self._counts["unrouted"] += 1
        for route in unevaluated:
            self._counts[f"unevaluated|{route}"] += 1

    def add_aside(self) -> None:
        """Count one entry of the inbox that was set aside."""
        self._counts["aside"] += 1


class SinkCounts:
    """What all workers have counted for one sink: attempts by outcome, and by the bound of their duration."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets: dict[str, int] = {}
        self.seconds = 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many attempts up to it) of each bucket, as Prometheus wants them."""
        return cumulative(_LABELS, [self.buckets.get(bound, 0) for bound in _LABELS])


class DispatchCounts:
    """What all dispatchers have counted: events by disposition, those without a route, failed rules by route, and
    entries of the inbox that were set aside."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.unrouted = 0
        self.aside = 0
        self.unevaluated: dict[str, int] = {}


def parse(fields: Mapping[Any, Any]) -> dict[str, SinkCounts]:
    """Return the counts in the hash of `AttemptCounter` (bytes to bytes), by sink. Unknown fields are ignored."""
    found: dict[str, SinkCounts] = {}
    for name, value in _numbers(fields):
        sink, _, rest = name.partition("|")
        counts = found.setdefault(sink, SinkCounts())
        first, _, second = rest.partition("|")
        if rest == "sum":
            counts.seconds = value
        elif first == "le":
            counts.buckets[second] = int(value)
        elif second == "count":
            counts.outcomes[first] = int(value)
    return found


def parse_dispatch(fields: Mapping[Any, Any]) -> DispatchCounts:
    """Return the counts in the hash of `DispatchCounter` (bytes to bytes). Unknown fields are ignored."""
    found = DispatchCounts()
    for field, value in _numbers(fields):
        kind, _, name = field.partition("|")
        if kind in ("event", "unevaluated"):
            (found.events if kind == "event" else found.unevaluated)[name] = int(value)
        elif field in ("unrouted", "aside"):
            setattr(found, field, int(value))
    return found


def _numbers(fields: Mapping[Any, Any]) -> Iterator[tuple[str, float]]:
    """Yield the fields whose value is a number."""
    for name, value in fields.items():
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(value)):
                yield name.decode(errors="replace"), number
