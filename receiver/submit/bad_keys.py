"""Calls with an unknown key: limits of their lookups in the ledger, by address and in all. Reads no clock."""

from __future__ import annotations

from typing import Final

from receiver.runtime.throttle import TokenBucket

# Look-ups a second, and at once, of unknown keys: of one address, and in all.
BY_ADDRESS: Final = (1.0, 20.0)
IN_ALL: Final = (20.0, 200.0)
_MOST_ADDRESSES: Final = 4096


class BadKeyThrottle:
    """Limit the lookups of unknown keys."""

    def __init__(self) -> None:
        self._all = TokenBucket(*IN_ALL)
        self._by_address: dict[str, TokenBucket] = {}

    def may_look_up(self, address: str, now: float) -> bool:
        """Return whether a key from this address may be looked up now. `now`: seconds, never going back."""
        mine = self._by_address.pop(address, None) or TokenBucket(*BY_ADDRESS)
        self._by_address[address] = mine  # the one that was used last is the last to go
        if len(self._by_address) > _MOST_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]
        return mine.take(1, now) and self._all.take(1, now)
