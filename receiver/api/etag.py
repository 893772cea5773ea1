"""ETags of answers (RFC 9110): who polls gets 304, and no body, while nothing has changed."""

from __future__ import annotations

import re
from hashlib import blake2b

_TAGS = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def etag_of(body: bytes) -> str:
    """Return the ETag of an answer. A weak one, since a proxy may compress the bytes."""
    return f'W/"{blake2b(body, digest_size=16).hexdigest()}"'


def is_known(if_none_match: str, etag: str) -> bool:
    """Return whether the client has the answer with this ETag already, by its If-None-Match; weakly compared."""
    given = if_none_match.strip()
    return given == "*" or etag.removeprefix("W/") in _TAGS.findall(given)
