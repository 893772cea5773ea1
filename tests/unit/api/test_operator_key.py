"""Keys of who reads the metrics, while the ledger does not say which are valid."""

import asyncio

import pytest
from starlette.requests import Request

from receiver.api.http import TRUSTED_FOR, OperatorKeys
from receiver.errors import Busy, NoKey
from receiver.ledger import LedgerUnavailable
from receiver.ledger.api_keys import Key

KEY = Key("1", "prometheus", "hash", "rhk_1", frozenset({"view"}), "*", None, 0.0)
REQUEST = Request({"type": "http", "headers": []})


class Keys:
    """What the ledger says of the key, at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.found: Key | Exception = KEY
        self._checks = OperatorKeys(self._identify, lambda _: "rhk_1_x", lambda: self.now)

    async def _identify(self, _: Request) -> Key:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def check(self, found: Key | Exception) -> None:
        self.found = found
        asyncio.run(self._checks.check(REQUEST))


def test_a_key_that_was_valid_is_taken_while_the_ledger_is_away() -> None:
    keys = Keys()
    with pytest.raises(Busy):
        keys.check(LedgerUnavailable("away"))
    keys.check(KEY)
    keys.check(LedgerUnavailable("away"))
    keys.now = TRUSTED_FOR + 1
    with pytest.raises(Busy):
        keys.check(LedgerUnavailable("away"))


def test_revoked_key_is_refused_while_the_ledger_is_down() -> None:
    # Given a key that has read the metrics, and was revoked
    keys = Keys()
    keys.check(KEY)
    with pytest.raises(NoKey):
        keys.check(NoKey("no such key"))
    # When the ledger does not answer
    # Then it is not taken for a valid one
    with pytest.raises(Busy):
        keys.check(LedgerUnavailable("away"))
