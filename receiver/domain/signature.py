"""The signature that Skyvern puts on a webhook: lower-case hex HMAC-SHA256 of the raw body. Pure.

The timestamp header is not signed and is skewed by hours on some senders: it protects nothing and is ignored.
A replayed request is stopped by its event id, not here.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

HEADER: Final = "x-skyvern-signature"

_HEX_LENGTH = 64


def sign(body: bytes, secret: str) -> str:
    """Return the value of the signature header for `body`."""
    return _mac(body, secret).hex()


def verify(body: bytes, signature: str, secrets: Iterable[str]) -> bool:
    """Whether `signature` was made over `body` with one of `secrets`.

    Every secret is tried, whichever fits, and each comparison takes the same time wherever it differs. Upper-case hex
    is the same number and passes; anything that is not 64 hex digits fails.
    """
    given = _digest(signature)
    fits = False
    for secret in secrets:
        fits |= hmac.compare_digest(_mac(body, secret), given)
    return fits


def _mac(body: bytes, secret: str) -> bytes:
    keyed = _keyed(secret).copy()
    keyed.update(body)
    return keyed.digest()


@lru_cache(maxsize=256)
def _keyed(secret: str) -> hmac.HMAC:
    """Return an HMAC with `secret`, to be copied. To set up another one, as `hmac.digest` does, costs as much as
    all the rest for a small body."""
    return hmac.new(secret.encode(), digestmod="sha256")


def _digest(signature: str) -> bytes:
    """Return the 32 bytes of `signature`, or b"", which equals no digest."""
    if len(signature) != _HEX_LENGTH:
        return b""
    try:
        return bytes.fromhex(signature)
    except ValueError:
        return b""
