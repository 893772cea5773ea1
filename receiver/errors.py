"""Every error that a user can meet, as one tree.

    RunhookError               exit 1   HTTP 500   "internal"
    ├── ConfigError            exit 2              a file or a variable that a person wrote is wrong
    ├── UsageError             exit 2              a command was called wrongly
    ├── NotStarted             exit 3              a part that is needed can't be reached or used (port, Redis, ledger)
    └── RequestError           HTTP 4xx/503        a request that is answered with an error
        ├── Unauthorized       401  "bad_signature" | "bad_key"
        ├── NotFound           404  "not_found"
        ├── TooLarge           413  "too_large"
        └── Busy               503  "unavailable", with Retry-After

The JSON shape is the same everywhere: {"error": {"code": ..., "message": ...}}.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class RunhookError(Exception):
    """Base of all errors that are shown to a person as one line."""

    exit_code: ClassVar[int] = 1


class ConfigError(RunhookError):
    """Something a person wrote in a file or variable is wrong. `problems`: one line each, with file, line and key."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(RunhookError):
    """A command was called with arguments that don't fit."""

    exit_code = 2


class NotStarted(RunhookError):
    """A part that is needed can't be reached or must not be used as it is."""

    exit_code = 3


class RequestError(RunhookError):
    """Answered to the client as `status` with a JSON body."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"

    def __init__(self, message: str, *, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = code or self.code
        self.headers = headers or {}

    def to_dict(self) -> dict[str, Any]:
        """The one JSON error shape."""
        return {"error": {"code": self.error_code, "message": self.message}}


class Unauthorized(RequestError):
    status = 401
    code = "bad_signature"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class TooLarge(RequestError):
    status = 413
    code = "too_large"


class Busy(RequestError):
    """Our own trouble. Always 503 with Retry-After: Skyvern retries it, and would never retry a 4xx."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 2) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


def suggest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `known` that was probably meant, or "". `cutoff`: how alike they must be, 1 for the same."""
    known = list(known)
    exact = [each for each in known if each.lower().replace("-", "_") == name.lower().replace("-", "_")]
    return next(iter(exact or difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), "")
