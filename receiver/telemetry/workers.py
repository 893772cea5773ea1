"""The workers' counters, kept in Redis, since each worker is a process of its own and /metrics is in another.

    runhook:metrics     a hash of numbers: a field is the counter's name and its labels, joined by NUL

Losing this hash is a counter reset, which Prometheus handles.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import redis

KEY: Final = "runhook:metrics"
# Upper bounds of a send's seconds.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LABELS: Final = (*map(str, BOUNDS), "+Inf")


class WorkerCounter:
    """Counts of one worker process until they are added to the hash; those of a failed flush are lost. Safe to call
    from any thread.

    Names and labels: `attempts` by sink and outcome, `seconds` by sink, `bucket` by sink and bound, `events` by
    disposition, `rule_errors` by route, `unrouted` and `set_aside`.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._added: deque[tuple[tuple[str, ...], float]] = deque()  # names with labels, and amounts

    def add_attempt(self, sink: str, outcome: str, seconds: float) -> None:
        """Count an attempt that took `seconds`."""
        bound = LABELS[bisect_left(BOUNDS, seconds)]
        self._added.extend(
            ((("attempts", sink, outcome), 1), (("bucket", sink, bound), 1), (("seconds", sink), seconds))
        )

    def add_event(self, disposition: str, *, routed: bool, unevaluated: Iterable[str] = ()) -> None:
        """Count an event. `routed`: it has a delivery. `unevaluated`: the routes whose rule failed on it."""
        self._added.append((("events", disposition), 1))
        if not routed and disposition not in ("update", "repeat", "superseded", "test"):
            self._added.append((("unrouted",), 1))
        for route in unevaluated:
            self._added.append((("rule_errors", route), 1))

    def add_set_aside(self) -> None:
        """Count an entry of the inbox that was set aside."""
        self._added.append((("set_aside",), 1))

    def flush(self, least: int = 1) -> None:
        """Add the counts to the hash, if there are at least `least`. Never raises RedisError: counting must stop no
        work."""
        if len(self._added) < least:
            return
        counts: defaultdict[tuple[str, ...], float] = defaultdict(float)
        with contextlib.suppress(IndexError):  # none is left
            while True:
                key, amount = self._added.popleft()
                counts[key] += amount
        with contextlib.suppress(redis.RedisError), self._redis.pipeline(transaction=False) as pipeline:
            for key, amount in counts.items():
                pipeline.hincrbyfloat(KEY, "\0".join(key), amount)
            pipeline.execute()


def parse(fields: Mapping[Any, Any]) -> dict[tuple[str, ...], float]:
    """Return the numbers of the hash by name and labels. Other fields are ignored."""
    counts: dict[tuple[str, ...], float] = {}
    for field, value in fields.items():
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(value)):
                counts[tuple(field.decode(errors="replace").split("\0"))] = number
    return counts
