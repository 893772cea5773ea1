"""Calls with a key that is none: how many are looked up in the ledger, by address and in all. Reads no clock."""

from __future__ import annotations

from typing import Final

from receiver.runtime.throttle import TokenBucket

# Look-ups a second, and at once, of unknown keys: of one address, and in all.
BY_ADDRESS: Final = (1.0, 20.0)
IN_ALL: Final = (20.0, 200.0)
_MOST_ADDRESSES: Final = 4096
_MOST_KEYS: Final = 4096


class BadKeyThrottle:
    """Keys that were valid before are never held up: all callers may come by one proxy, and so from one address."""

    def __init__(self) -> None:
        self._all = TokenBucket(*IN_ALL)
        self._by_address: dict[str, TokenBucket] = {}
        self._valid: dict[str, None] = {}

    def may_look_up(self, digest: str, address: str, now: float) -> bool:
        """Return whether the key with this hash may be looked up now. `now`: seconds, never going back."""
        if digest in self._valid:
            return True
        mine = self._by_address.pop(address, None) or TokenBucket(*BY_ADDRESS)
        self._by_address[address] = mine  # the one that was used last is the last to go
        if len(self._by_address) > _MOST_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]
        return mine.take(1, now) and self._all.take(1, now)

    def learn(self, digest: str, *, valid: bool) -> None:
        """Note whether the key with this hash is one."""
        self._valid.pop(digest, None)
        if valid:
            self._valid[digest] = None
            if len(self._valid) > _MOST_KEYS:
                del self._valid[next(iter(self._valid))]
