"""The keys with which operators' programs read /metrics and /readyz?all on the public port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request

from receiver.api.service import Actor
from receiver.domain import api_key
from receiver.domain.api_key import VIEW
from receiver.errors import Busy, NoKey
from receiver.ledger import LedgerUnavailable
from receiver.ledger.api_keys import Key

# Seconds for which a key that was valid is accepted while the ledger is unavailable: metrics are needed most then.
TRUSTED_FOR: Final = 24 * 3600.0
# Seconds that the ledger has to answer. Who scrapes waits 10 s, of which the metrics themselves may take most.
PATIENCE: Final = 2.0
_MOST: Final = 256


class OperatorKeys:
    """Checks keys. `identify`: returns the valid key of a request, with what it presented; raises RequestError and
    LedgerUnavailable. `presented`: what a request gives as its key."""

    def __init__(
        self,
        identify: Callable[[Request], Awaitable[Key]],
        presented: Callable[[Request], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identify = identify
        self._presented = presented
        self._clock = clock
        self._valid_at: dict[str, float] = {}

    async def check(self, request: Request) -> None:
        """Return for a key of all sources that may view. Raises RequestError for any other."""
        digest = api_key.digest(self._presented(request))
        try:
            async with asyncio.timeout(PATIENCE):
                key = await self._identify(request)
        except (LedgerUnavailable, TimeoutError):
            if self._clock() - self._valid_at.get(digest, float("-inf")) > TRUSTED_FOR:
                raise Busy("ledger database unavailable, so no key can be checked", retry_after=5) from None
            return
        except NoKey:  # it was revoked
            self._valid_at.pop(digest, None)
            raise
        self._valid_at.pop(digest, None)
        actor = Actor.of_key(key)
        actor.require(VIEW)
        actor.require_all_sources()
        if len(self._valid_at) >= _MOST:
            self._valid_at.clear()
        self._valid_at[digest] = self._clock()
