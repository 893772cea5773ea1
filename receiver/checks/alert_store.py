"""The state of alerts that all clocks share, in Redis, and which clock sends them."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Final

import msgspec
import redis

from receiver.checks.alerts import AlertState
from receiver.runtime.redis_client import connect

STATE: Final = "runhook:alerts"
LEADER: Final = "runhook:alerts:clock"
# Seconds after which another clock takes over from one that ended: longer than any one message may take.
LEADS_FOR: Final = 90
# Seconds to wait for a response of Redis.
_TIMEOUT: Final = 2.0


def read(client: redis.Redis) -> AlertState | None:
    """Return the state; None if it is missing or another program wrote it. Raises redis.RedisError."""
    with suppress(msgspec.ValidationError, msgspec.DecodeError):
        raw = client.get(STATE)
        return None if raw is None else msgspec.json.decode(raw, type=AlertState)
    return None


class NotLeading(Exception):
    """Another clock sends the alerts."""


class AlertStore:
    """The state as one clock sees it. While Redis is unavailable, it is in the memory of each clock."""

    def __init__(self, url: str) -> None:
        self._client = connect(url, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, retries=1)
        self._name = secrets.token_hex(8)
        self._state = AlertState()  # as this clock read or wrote it last
        self._unsaved = False

    def take(self, leads: bool | None) -> AlertState:
        """Return the state. Raises NotLeading if another clock sends the alerts.

        `leads`: whether this clock does, by the ledger; None while that is unavailable: then Redis names the clock.
        """
        try:
            # What Redis lost is not reported again; what it could not store is newer.
            stored = self._state if self._unsaved else read(self._client) or self._state
            if not leads and (leads is False or not self._leads()):
                self._state, self._unsaved = stored, False
                raise NotLeading
        except redis.RedisError:
            if leads is False:
                raise NotLeading from None
            return self._state
        self._state = stored
        return stored

    def save(self, state: AlertState) -> None:
        """Write the state, for this clock and the others."""
        self._state = state
        try:
            self._client.set(LEADER, self._name, ex=LEADS_FOR)
            self._client.set(STATE, msgspec.json.encode(state))
            self._unsaved = False
        except redis.RedisError:
            self._unsaved = True

    def _leads(self) -> bool:
        free = self._client.set(LEADER, self._name, nx=True, ex=LEADS_FOR)
        return bool(free) or self._client.get(LEADER) == self._name.encode()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
