"""Our callback URLs, where Skyvern's answers show them, become the caller's own: the token in them is secret.

So is the webhook address of one caller to another, whatever else its key sees of the run: it becomes null there.
"""

from __future__ import annotations

from contextlib import suppress

from receiver.domain.callback_url import mask_bytes, tokens_in
from receiver.ledger import LedgerUnavailable
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.submissions.records import addresses
from receiver.web.work import off_loop


async def mask_callbacks(ledger: AsyncLedger, source: str, key: Key | None, body: bytes) -> bytes:
    """Return `body`, an answer of Skyvern or a body of the ledger, with each of our callback URLs replaced by the
    webhook address that `key` may see, or null, and with stars for each token inside longer text.

    Whatever public URL it was made with: that may have changed since the run was submitted. A `key` of None may see
    none. Where the ledger is unavailable, all become null.
    """
    tokens = await off_loop(len(body), tokens_in, body)
    if not tokens:
        return body
    visible: dict[str, str] = {}
    if key is not None:
        with suppress(LedgerUnavailable):
            visible = await ledger.read(lambda connection: addresses(connection, source, tokens, key))
    return await off_loop(len(body), mask_bytes, body, visible)
