"""Every error that is shown to a user as one line, or sent to a client of the webhook endpoint.

A RequestError is answered as {"error": {"code": ..., "message": ...}}, by the JSON API as problem details
(receiver.api.problem). The submit API answers in Skyvern's own shape, {"detail": ...} (receiver.submit.replies).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping, Sequence
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

    status, code = 400, "bad_request"


class Unauthorized(RequestError):
    """The signature fits none of the source's secrets."""

    status, code = 401, "bad_signature"


class NoKey(RequestError):
    """The call has no API key, or one that is not valid."""

    exit_code = 2
    status, code = 401, "no_key"

    def __init__(self, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer", **(headers or {})})


class Forbidden(RequestError):
    """The key may not make this call."""

    exit_code = 2
    status, code = 403, "forbidden"


class NotFound(RequestError):
    """There is nothing of that name: no source with that path, no run with that id."""

    exit_code = 2
    status, code = 404, "not_found"


class NotAllowed(RequestError):
    """Any method but POST."""

    status, code = 405, "method_not_allowed"


class TimedOut(RequestError):
    """The body did not come in. Skyvern tries again after 408."""

    status, code = 408, "timeout"


class Conflict(RequestError):
    """What is there is not what the caller takes it for. Nothing was changed."""

    status, code = 409, "conflict"


class NotAsExpected(Conflict):
    """An action would take others than the caller expects: `count` now. Nothing was changed."""

    code = "not_as_expected"

    def __init__(self, expected: int, count: int) -> None:
        super().__init__(f"expect: {count} match now, not {expected}; nothing was changed")
        self.count = count


class TooLarge(RequestError):
    """The body is over the limit: of a webhook server.max_body."""

    status, code = 413, "too_large"


class HeadTooLarge(TooLarge):
    """The head of the request is over the limit, in bytes or in fields."""

    status = 431


class Invalid(RequestError):
    """A parameter is wrong. `problems`: the `name` of each, and a `message` that says what would be right."""

    exit_code = 2
    status, code = 422, "invalid"

    def __init__(
        self,
        message: str,
        problems: Sequence[Mapping[str, str]] = (),
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        self.problems = problems


class TooMany(RequestError):
    """The key makes too many calls."""

    status, code = 429, "too_many"


class Busy(RequestError):
    """Runhook or a server it needs is unavailable: 503 with Retry-After, which Skyvern retries, unlike a 4xx."""

    exit_code = 3
    status, code = 503, "unavailable"

    def __init__(self, message: str, *, retry_after: int = 2) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


def suggest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the one of `names` that was probably meant, or "". `cutoff`: how alike they must be, 1 for the same."""
    import difflib  # only for a mistake; each start would pay for it

    names = list(names)
    exact = [each for each in names if each.lower().replace("-", "_") == name.lower().replace("-", "_")]
    return next(iter(exact or difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), "")


def error_location(error: BaseException) -> str:
    """Return the error's type, file and line, and what the system said. Not its text, which may hold a payload or a
    secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    number = error.errno if isinstance(error, OSError) else None
    said = f" ({os.strerror(number)})" if number else ""
    return f"{type(error).__name__}{said}{place}"
