"""Our callback URLs, where Skyvern's answers show them, become the caller's own: the token in them is secret.

So is the webhook address of one caller to another, whatever else its key sees of the run: it becomes null there.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

from receiver.ledger import LedgerUnavailable
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.submissions.visibility import addresses
from receiver.submit.request.source import Source

_TOKEN = rb"(sub_[0-9a-f]{32})"


class CallbackMask:
    """Masks answers of Skyvern and bodies of the ledger."""

    def __init__(self, ledger: AsyncLedger) -> None:
        self._ledger = ledger
        self._patterns: dict[str, re.Pattern[bytes]] = {}

    async def apply(self, source: Source, key: Key | None, body: bytes) -> bytes:
        """Return `body` with each of our callback URLs replaced by the webhook address that `key` may see, or null.

        A `key` of None may see none. Where the ledger is unavailable, all become null.
        """
        if not source.callback_base or source.callback_base.encode() not in body:
            return body
        if source.callback_base not in self._patterns:
            quoted = re.escape(json.dumps(source.callback_base)[:-1].encode())
            self._patterns[source.callback_base] = re.compile(quoted + b"/" + _TOKEN + b'"')
        pattern = self._patterns[source.callback_base]
        tokens = sorted({found.decode() for found in pattern.findall(body)})
        visible: dict[str, str] = {}
        if key is not None:
            with suppress(LedgerUnavailable):
                visible = await self._ledger.read(lambda connection: addresses(connection, source.name, tokens, key))
        return pattern.sub(
            lambda found: json.dumps(visible.get(found[1].decode()) or None, ensure_ascii=False).encode(), body
        )
