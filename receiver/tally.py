"""What the workers count, kept in Redis, since each of them is a process of its own and /metrics is in another.

One hash: "<sink>|<outcome>|count", "<sink>|sum" and "<sink>|le|<bound>". Losing it is a counter's reset, which
Prometheus knows how to read.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import redis

KEY: Final = "runhook:metrics:deliver"
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds of one send."""
FLUSH_EVERY: Final = 2.0


class Tally:
    """Counts of one worker process. They go to Redis every few seconds; a lost flush is lost."""

    def __init__(self, client: redis.Redis, sink: str) -> None:
        self._redis = client
        self._sink = sink
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._flushed = time.monotonic()

    def add(self, outcome: str, seconds: float) -> None:
        """Count one attempt that took `seconds`."""
        place = bisect_left(BOUNDS, seconds)
        bound = str(BOUNDS[place]) if place < len(BOUNDS) else "+Inf"
        self._counts[f"{self._sink}|{outcome}|count"] += 1
        self._counts[f"{self._sink}|le|{bound}"] += 1
        self._seconds += seconds

    def flush(self, *, now: bool = False) -> None:
        """Send the counts on, if it is time or `now`. Never raises for Redis: counting must stop no delivery."""
        if not self._counts or not (now or time.monotonic() - self._flushed > FLUSH_EVERY):
            return
        self._flushed = time.monotonic()
        counts, self._counts = self._counts, Counter()
        seconds, self._seconds = self._seconds, 0.0
        with contextlib.suppress(redis.RedisError), self._redis.pipeline(transaction=False) as pipeline:
            for field, count in counts.items():
                pipeline.hincrby(KEY, field, count)
            pipeline.hincrbyfloat(KEY, f"{self._sink}|sum", seconds)
            pipeline.execute()


class SinkCounts:
    """What all workers have counted for one sink."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets: dict[str, int] = {}
        self.seconds = 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many attempts up to it), as Prometheus wants them."""
        total, pairs = 0, []
        for bound in [*map(str, BOUNDS), "+Inf"]:
            total += self.buckets.get(bound, 0)
            pairs.append((bound, float(total)))
        return pairs


def parse(fields: Mapping[Any, Any]) -> dict[str, SinkCounts]:
    """The hash (bytes to bytes), by sink. Fields that are not ours are passed over."""
    found: dict[str, SinkCounts] = {}
    for raw, value in fields.items():
        sink, _, rest = raw.decode(errors="replace").partition("|")
        counts = found.setdefault(sink, SinkCounts())
        first, _, second = rest.partition("|")
        with contextlib.suppress(ValueError):
            if rest == "sum":
                counts.seconds = float(value)
            elif first == "le":
                counts.buckets[second] = int(value)
            elif second == "count":
                counts.outcomes[first] = int(value)
    return found
