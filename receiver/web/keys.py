"""Authentication of callers: the key, its scopes and its rate. An unknown key is answered as by Skyvern."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import redis

from receiver.config.fields import parse_rate
from receiver.domain import api_key
from receiver.ledger import LedgerDataError, LedgerUnavailable
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.runtime.background import Background
from receiver.runtime.throttle import RateLimits, TokenBucket
from receiver.web.responses import Refusal, Reply, error
from receiver.web.work import SingleFlight

# Seconds for which the keys are cached: so long is one that was revoked, or has expired, still accepted.
CACHE_SECONDS = 5.0
# Seconds between two reads of the keys for the sake of an unknown one: its caller waits for the next.
UNKNOWN_INTERVAL = 1.0
# Seconds between two updates of a key's `used_at` in the ledger.
USED_AT_INTERVAL = 60.0
# Calls a second, and at once, of a key without a rate: a thousand may well begin to wait together.
USUAL_RATE: Final = (200.0, 2000.0)
INVALID_KEY: Final = "Invalid credentials"
EXPIRED_KEY: Final = "The API key has expired"
_FORM = re.compile(r"rhk_[A-Za-z0-9]{1,64}_[A-Za-z0-9_-]{1,128}")

log = logging.getLogger("runhook.submit")


class ExpiredKey(Refusal):
    """The caller's key was valid, and has expired."""


class Authenticator:
    """Checks keys against the ledger. `default_rate`: of keys without one of their own, such as 10/s; None: USUAL_RATE.

    `refused`: counts of refused calls by reason.
    """

    def __init__(
        self,
        ledger: AsyncLedger,
        client: redis.Redis,
        default_rate: str | None,
        background: Background | None = None,
        refused: MutableMapping[str, int] | None = None,
        no_key_status: int = 403,
        cached_for: float = CACHE_SECONDS,
    ) -> None:
        """`no_key_status`: how a caller without a valid key is answered, for the log. `cached_for`: seconds."""
        self._no_key_status = no_key_status
        self._cached_for = cached_for
        self._background = background or Background()
        self._ledger = ledger
        self._redis = client
        self._default_rate = default_rate
        self._refused = refused if refused is not None else {}
        self._lines = TokenBucket(1, 10)
        self._keys: Mapping[str, Key] = {}  # by hash, those that are not revoked
        self._read_at = float("-inf")
        self._reads: SingleFlight[str, None] = SingleFlight()
        self._limits = RateLimits(client)
        self._buckets: dict[str, TokenBucket] = {}
        self._used_at: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(2, "submit-rates")

    async def identify(self, headers: Mapping[str, str], address: str = "") -> Key | None:
        """Return the caller's key, or None for none or a bad one, which is counted.

        Raises ExpiredKey, LedgerUnavailable, and Refusal 429 for a key over its rate. `address`: for the log.
        """
        presented = presented_key(headers)
        key = await self._find(presented)
        if key is None:
            self._refusal("bad_key", error(self._no_key_status, INVALID_KEY), address, presented)
        elif key.expired:
            raise ExpiredKey(
                self._refusal("expired", error(self._no_key_status, EXPIRED_KEY), address, presented).reply
            )
        elif not await self._take(key):
            words = "Rate limit exceeded. Please try again later."
            raise self._refusal("rate", error(429, words, retry_after="1"), address, presented)
        return key

    async def authenticate(self, headers: Mapping[str, str], scope: str | None, address: str = "") -> Key:
        """Return the caller's key. Raises Refusal: 403 for no key, a bad one or a scope it lacks; 429 over its rate.

        Calls that are refused for their scope count for the rate. `scope`: None for a call that no key may make.
        Raises LedgerUnavailable.
        """
        key = await self.identify(headers, address)
        if key is None:
            raise Refusal(error(403, INVALID_KEY))
        presented = presented_key(headers)
        if scope is None:
            raise self._refusal("scope", error(403, "This call is not passed on"), address, presented)
        if scope not in key.scopes:
            raise self._refusal("scope", error(403, f"The key lacks the scope {scope}"), address, presented)
        return key

    async def _find(self, presented: str) -> Key | None:
        """Return the key, or None. Raises LedgerUnavailable."""
        if not _FORM.fullmatch(presented):
            return None
        key, now = await self._lookup(api_key.digest(presented)), time.monotonic()
        if key is not None and not key.expired and now - self._used_at.get(key.id, float("-inf")) > USED_AT_INTERVAL:
            self._used_at[key.id] = now
            self._background.spawn("submit.mark_used", self._mark_used(key.id, time.time()))
        return key

    def remembered(self, presented: str, within: float) -> Key | None:
        """Return the key if the last read of the keys had it, and was at most `within` seconds ago; else None.

        A key that has expired since is not returned, by the clock of this host.
        """
        found = self._keys.get(api_key.digest(presented))
        if found is None or found.expired or time.monotonic() - self._read_at > within:
            return None
        return found if found.expires_at is None or time.time() < found.expires_at else None

    async def _lookup(self, digest: str) -> Key | None:
        """Return the key from the cache, which is read again when it is old, or has no such key. One read serves all
        that wait for it: a thousand held requests may end at once, and unknown keys together cost one a second."""
        unknown = digest not in self._keys
        if unknown or time.monotonic() - self._read_at > self._cached_for:
            await self._reads.run("", lambda: self._read(UNKNOWN_INTERVAL if unknown else 0.0))
        return self._keys.get(digest)

    async def _read(self, interval: float) -> None:
        await asyncio.sleep(self._read_at + interval - time.monotonic())
        began = time.monotonic()
        self._keys, self._read_at = await self._ledger.read(api_keys.by_hashes), began

    def _refusal(self, reason: str, reply: Reply, address: str, presented: str) -> Refusal:
        """Count and log a refused call, and return what to raise."""
        self._refused[reason] = self._refused.get(reason, 0) + 1
        if self._lines.take(1, time.monotonic()):
            # An unknown key is not logged: it may belong to another service.
            hint = api_key.hint(presented) if _FORM.fullmatch(presented) else "none"
            log.warning("submit.refused reason=%s status=%d key=%s address=%s", reason, reply.status, hint, address)
        return Refusal(reply)

    async def is_valid(self, key: Key) -> bool:
        """Return whether a key that was authenticated before is still valid. Raises LedgerUnavailable."""
        found = await self._lookup(key.hash)
        return found is not None and not found.expired

    async def _mark_used(self, key_id: str, at: float) -> None:
        """Update `used_at`. A background task: a ledger that refuses the write must not refuse or delay the call."""
        with contextlib.suppress(LedgerUnavailable, LedgerDataError):
            await self._ledger.write(lambda connection: api_keys.mark_used(connection, key_id, at))

    async def _take(self, key: Key) -> bool:
        """Return whether the key may make a call now. A configured rate counts over all processes."""
        if rate := key.rate or self._default_rate:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._limits.take, f"key/{key.id}", parse_rate(rate)) > 0
        if key.id not in self._buckets:
            self._buckets[key.id] = TokenBucket(*USUAL_RATE)
        return self._buckets[key.id].take(1, time.monotonic())

    def close(self) -> None:
        """Stop the threads and close the connections to Redis."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._redis.close()


def presented_key(headers: Mapping[str, str]) -> str:
    """Return the key in `x-api-key`, or in `authorization` as a Bearer token, or ""."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return (headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")).strip()
