"""What responses of the API have in common: problem details (RFC 9457) and ETags (RFC 9110)."""

from __future__ import annotations

import re
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final

from receiver.errors import Invalid, NotAsExpected, RequestError

_TAGS = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')

CONTENT_TYPE: Final = "application/problem+json"
# What `type` begins with; the code of the error follows.
TYPE: Final = "urn:runhook:problem:"


def problem_of(error: RequestError) -> dict[str, Any]:
    """Return the JSON object of an error. `errors` names each parameter that is wrong; `count`: how many match now."""
    found: dict[str, Any] = {
        "type": TYPE + error.code,
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
    }
    if isinstance(error, Invalid) and error.problems:
        found["errors"] = list(error.problems)
    if isinstance(error, NotAsExpected):
        found["count"] = error.count
    return found


def etag_of(body: bytes) -> str:
    """Return the weak ETag of a response: a proxy may compress its bytes."""
    return f'W/"{blake2b(body, digest_size=16).hexdigest()}"'


def is_known(if_none_match: str, etag: str) -> bool:
    """Return whether If-None-Match has this ETag, weakly compared."""
    given = if_none_match.strip()
    return given == "*" or etag.removeprefix("W/") in _TAGS.findall(given)
