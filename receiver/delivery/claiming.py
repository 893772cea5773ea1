"""Claim due deliveries for one sink: as many as its rate and its lanes allow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import redis

from receiver.domain.time_limits import START_WITHIN
from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.claims import Claims
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.runtime.throttle import SharedRate


class Claiming:
    """Claims for `sink` in the worker process `owner`. `places`, `rate`, `lane_limit`: see SinkRunner."""

    def __init__(
        self, ledger: Ledger, sink: str, owner: str, places: int, rate: SharedRate | None, lane_limit: int | None
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._owner = owner
        self._places = places
        self._rate = rate
        self._lane_limit = lane_limit
        self._rotation = Rotation()

    def claim(self, limit: int, owned: Sequence[Claimed], most_bytes: int) -> Claims:
        """Claim up to `limit` deliveries and about `most_bytes`. `owned`: what the sink has. Raises LedgerUnavailable.

        While Redis, which counts a rate, is unavailable or full, a sink that has one gets nothing.
        """
        many = None
        if self._lane_limit:
            of_lanes, probing = Counter(each.lane for each in owned), sum(each.probe for each in owned)
            many = ManyLanes(self._places, self._lane_limit, of_lanes, probing, self._rotation)
        if self._rate:
            limit = self._allowed(self._rate, limit)
        if not limit:
            return Claims()  # the process pokes once a second
        began = time.monotonic()
        claimed = self._ledger.write(
            lambda it: claims.claim(
                *(it, self._sink, limit, self._owner, self._ledger.now()), most_bytes=most_bytes, many=many
            )
        )
        for each in claimed:
            each.start_by = began + START_WITHIN
        return claimed

    def _allowed(self, rate: SharedRate, wanted: int) -> int:
        """Return how many that are due, up to `wanted`, the rate allows now."""
        now = self._ledger.now()
        due = self._ledger.read(lambda it: claims.count_due(it, self._sink, wanted, now), transaction=False)
        try:
            return rate.take(due) if due else 0  # what is not sent must not count
        except redis.RedisError:
            return 0
