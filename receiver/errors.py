"""Every error that is shown to a user as one line, or answered to a client of the webhook endpoint, as one tree.

    RunhookError               exit 1
    ├── ConfigError            exit 2                      a file or a variable that a person wrote is wrong
    ├── UsageError             exit 2                      a command was called wrongly
    ├── NotStarted             exit 3                      what is needed can't be reached or used (port, Redis, ledger)
    ├── InboxUnavailable       exit 1                      receiver.inbox: Redis did not confirm a commit
    ├── NotChanged             exit 1                      receiver.reconcile.connect: an agent is not as it should be
    ├── SpoolFull              exit 1                      receiver.ingest.spool: the local disk store takes no more
    └── RequestError                                       a request that is answered with an error
        ├── BadRequest         400 "bad_request"
        ├── Unauthorized       401 "bad_signature"
        ├── NotFound           404 "not_found"
        ├── NotAllowed         405 "method_not_allowed"
        ├── TimedOut           408 "timeout"
        ├── TooLarge           413 "too_large"
        └── Busy               503 "unavailable"           with Retry-After

A RequestError is answered as {"error": {"code": ..., "message": ...}}. The submit API does not use it: it answers in
Skyvern's own shape, {"detail": ...} (receiver.submit.replies).
"""

from __future__ import annotations

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
    """Something that is needed can't be reached, or must not be used as it is."""

    exit_code = 3


class RequestError(RunhookError):
    """Base of the errors that are answered to the client, as `status` with a JSON body."""

    status: ClassVar[int]
    code: ClassVar[str]

    def __init__(self, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {"error": {"code": self.code, "message": self.message}}


class BadRequest(RequestError):
    """A request that no HTTP client should make."""

    status = 400
    code = "bad_request"


class Unauthorized(RequestError):
    """The signature fits none of the source's secrets."""

    status = 401
    code = "bad_signature"


class NotFound(RequestError):
    """No source has that path."""

    status = 404
    code = "not_found"


class NotAllowed(RequestError):
    """Any method but POST."""

    status = 405
    code = "method_not_allowed"


class TimedOut(RequestError):
    """The body did not come in. Skyvern tries again after 408."""

    status = 408
    code = "timeout"


class TooLarge(RequestError):
    """The body is over server.max_body."""

    status = 413
    code = "too_large"


class Busy(RequestError):
    """Our own trouble. Always 503 with Retry-After: Skyvern retries it, and would never retry a 4xx."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 2) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


def suggest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the one of `known` that was probably meant, or "". `cutoff`: how alike they must be, 1 for the same."""
    import difflib  # only for a mistake; each start would pay for it

    known = list(known)
    exact = [each for each in known if each.lower().replace("-", "_") == name.lower().replace("-", "_")]
    return next(iter(exact or difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), "")
