"""Errors of the API as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from receiver.errors import Invalid, NotAsExpected, RequestError

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
