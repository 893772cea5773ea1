"""Keys of who reads the metrics, while the ledger does not say which are valid."""

import asyncio

import pytest
from starlette.requests import Request

from receiver.api.http import OperatorKeys
from receiver.errors import Busy, Forbidden, NoKey
from receiver.ledger import LedgerUnavailable
from receiver.ledger.access.api_keys import Key

KEY = Key("1", "prometheus", "hash", "rhk_1", frozenset({"view"}), "*", None, 0.0)
OF_ONE = Key("2", "app", "hash", "rhk_2", frozenset({"view"}), "skyvern", None, 0.0)


@pytest.mark.parametrize(
    ("found", "remembered", "error"),
    [
        (KEY, None, None),
        (OF_ONE, KEY, Forbidden),
        (NoKey("revoked"), KEY, NoKey),
        (LedgerUnavailable("down"), KEY, None),
        (LedgerUnavailable("down"), OF_ONE, Forbidden),
        (LedgerUnavailable("down"), None, Busy),
    ],
)
def test_remembered_key_counts_only_while_the_ledger_is_down(
    found: Key | Exception, remembered: Key | None, error: type[Exception] | None
) -> None:
    async def identify(_: Request) -> Key:
        if isinstance(found, Exception):
            raise found
        return found

    check = OperatorKeys(identify, lambda _: remembered).check(Request({"type": "http", "headers": []}))
    if error is None:
        asyncio.run(check)
    else:
        with pytest.raises(error):
            asyncio.run(check)
