"""Our callback URLs, where Skyvern tells them, become the caller's own: the token in them is nobody's business.

Nor is the address of a caller another caller's, whatever else its key sees of the run: it stands as null there.
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
    """For answers of Skyvern, and for bodies of the ledger."""

    def __init__(self, store: AsyncLedger) -> None:
        self._store = store
        self._patterns: dict[str, re.Pattern[bytes]] = {}

    async def put_on(self, source: Source, key: Key | None, body: bytes) -> bytes:
        """`body` with each of our callback URLs replaced, by what `key` may be told, or null. None: nobody's key."""
        if not source.callbacks or source.callbacks.encode() not in body:
            return body
        if source.callbacks not in self._patterns:
            quoted = re.escape(json.dumps(source.callbacks)[:-1].encode())
            self._patterns[source.callbacks] = re.compile(quoted + b"/" + _TOKEN + b'"')
        pattern = self._patterns[source.callbacks]
        tokens = sorted({found.decode() for found in pattern.findall(body)})
        theirs: dict[str, str] = {}
        if key is not None:
            with suppress(LedgerUnavailable):
                theirs = await self._store.read(lambda connection: addresses(connection, source.name, tokens, key))
        return pattern.sub(
            lambda found: json.dumps(theirs.get(found[1].decode()) or None, ensure_ascii=False).encode(), body
        )
