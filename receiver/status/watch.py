"""Which processes are alive, for readers that look often: what Redis and the ledger know, merged."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import redis

from receiver.domain import parts
from receiver.domain.parts import PartSeen
from receiver.ledger import Ledger, LedgerUnavailable, heartbeats
from receiver.runtime.redis_client import connect
from receiver.status import board


@dataclass(frozen=True, slots=True)
class PartsReport:
    """Who was heard of. `redis`, `ledger`: why that could not be read, or ""."""

    seen: list[PartSeen] = field(default_factory=list)
    redis: str = ""
    ledger: str = ""


class PartsWatch:
    """Reads heartbeats. Any thread may call it; one reads at a time.

    `ledger`: stays its owner's. `within`: seconds that the ledger may take; None: its own limits.
    """

    def __init__(self, redis_url: str, ledger: Ledger, *, within: float | None = None) -> None:
        self._redis = connect(redis_url, timeout=1.0, connect_timeout=1.0, retries=1)
        self._ledger = ledger
        self._within = within
        self._lock = threading.Lock()

    def read(self) -> PartsReport:
        """Return who was heard of. Never raises for what is away."""
        stores: list[list[PartSeen]] = []
        trouble = {"redis": "", "ledger": ""}
        with self._lock:
            try:
                stores.append(board.every(self._redis))
            except redis.RedisError as error:
                trouble["redis"] = str(error) or type(error).__name__
            try:
                stores.append(self._ledger.read(heartbeats.every, self._within))
            except LedgerUnavailable as error:
                trouble["ledger"] = str(error)
        return PartsReport(parts.merge(*stores), **trouble)

    def close(self) -> None:
        """Close the connection to Redis."""
        self._redis.close()
