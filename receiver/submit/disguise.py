"""Our callback URLs, where Skyvern tells them, become the callers' own: the token in them is nobody's business."""

from __future__ import annotations

import json
import re

from receiver.ledger import LedgerUnavailable
from receiver.ledger.results import callbacks
from receiver.submit.store import Store
from receiver.submit.submitter import Source

_TOKEN = rb"(sub_[0-9a-f]{32})"


class Disguise:
    """For answers of Skyvern, and for bodies of the ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._patterns: dict[str, re.Pattern[bytes]] = {}

    async def put_on(self, source: Source, body: bytes) -> bytes:
        """`body` with each of our callback URLs replaced; with null where the ledger can't tell the caller's own."""
        if not source.callbacks or source.callbacks.encode() not in body:
            return body
        if source.callbacks not in self._patterns:
            quoted = re.escape(json.dumps(source.callbacks)[:-1].encode())
            self._patterns[source.callbacks] = re.compile(quoted + b"/" + _TOKEN + b'"')
        pattern = self._patterns[source.callbacks]
        tokens = sorted({found.decode() for found in pattern.findall(body)})
        try:
            theirs = await self._store.read(lambda connection: callbacks(connection, source.name, tokens))
        except LedgerUnavailable:
            theirs = {}
        return pattern.sub(
            lambda found: json.dumps(theirs.get(found[1].decode()) or None, ensure_ascii=False).encode(), body
        )
