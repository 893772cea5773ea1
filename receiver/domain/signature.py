"""The signature that Skyvern puts on a webhook: lower-case hex HMAC-SHA256 of the raw body. Pure.

The timestamp header is not signed and is skewed by hours on some senders: it protects nothing and is ignored.
A replayed request is stopped by its event id, not here.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

HEADER: Final = "x-skyvern-signature"

_HEX_LENGTH = 64


def sign(body: bytes, secret: str) -> str:
    """Return the value of the signature header for `body`."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def verify(body: bytes, signature: str, secrets: Iterable[str]) -> bool:
    """Whether `signature` was made over `body` with one of `secrets`.

    Every secret is tried, whichever fits, and each comparison takes the same time wherever it differs. Upper-case hex
    is the same number and passes; anything that is not 64 hex digits fails.
    """
    given = _digest(signature)
    fits = False
    for secret in secrets:
        fits |= hmac.compare_digest(hmac.digest(secret.encode(), body, "sha256"), given)
    return fits


def _digest(signature: str) -> bytes:
    """Return the 32 bytes of `signature`, or b"", which equals no digest."""
    if len(signature) != _HEX_LENGTH:
        return b""
    try:
        return bytes.fromhex(signature)
    except ValueError:
        return b""
