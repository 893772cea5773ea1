"""Replies to callers, in Skyvern's own shape: status, headers, body. Pure.

Skyvern's answer is passed on as it is, with our callback URL in it replaced by the caller's own; its errors get our
submission id. Anything else (a page of HTML, a redirect, silence) becomes 502, 503 or 504. What holds
a secret of Runhook is never passed on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final

from receiver.skyvern.responses import Answer, Answered, Unreachable
from receiver.submit.json_object import NotAnObject, with_members
from receiver.web.responses import Reply, error

SUBMISSION_HEADER: Final = "x-runhook-submission-id"
STATUS_HEADER: Final = "x-runhook-skyvern-status"
# ledger | skyvern | submission: where the answer to a GET of a run comes from.
SOURCE_HEADER: Final = "x-runhook-from"
# The webhook that a run's own caller asked for, percent-encoded; empty when none.
WEBHOOK_HEADER: Final = "x-runhook-webhook-url"
# The newest event of a run that is answered from the ledger.
EVENT_HEADER: Final = "x-runhook-event-id"
# The run that Skyvern started again last for the one that was asked for, and the other way round.
RETRIED_BY_HEADER: Final = "x-runhook-retried-by"
RETRIED_FROM_HEADER: Final = "x-runhook-retried-from"
# The run that the submit made: of runs that Skyvern started again, the first.
SUBMITTED_RUN_HEADER: Final = "x-runhook-submitted-run"
# Characters of a secret under which it is not looked for: any text may contain it.
SHORTEST: Final = 6
# Seconds after which a caller may retry what certainly created no run.
RETRY_AFTER: Final = "5"

_RELAYED = frozenset(("content-type", "content-disposition", "content-range", "content-language", "accept-ranges"))
_RELAYED |= {"etag", "last-modified", "cache-control", "retry-after"}
_NOT_MODIFIED = 304


def _in_json(texts: Collection[str]) -> set[str]:
    """Return texts unchanged, and as JSON writes them: with non-ASCII characters escaped, and unescaped."""
    escaped = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in texts for ascii_only in (True, False))
    return {*texts, *escaped}


class SecretScan:
    """Looks for the secrets of all sources in a text, as they are and as JSON escapes them.

    `overlap`: bytes at a text's end that may be the beginning of a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        long_secrets = [each for each in secrets if len(each) >= SHORTEST]
        self._needles = {each.encode() for each in _in_json(_in_json(long_secrets))}
        self.overlap = max(map(len, self._needles), default=1) - 1

    def found_in(self, text: bytes) -> bool:
        """Return whether `text` contains a secret, also inside a JSON text that is a value of another one."""
        return any(needle in text for needle in self._needles)


NO_SECRETS: Final = SecretScan()


def for_submission(reply: Reply, submission_id: str) -> Reply:
    """Return a reply with the submission's id: in a header, and in the object of an error."""
    body = reply.body
    if reply.status >= 400:
        with suppress(NotAnObject):
            body = with_members(body, submission_id=submission_id)
    return Reply(reply.status, body, {**reply.headers, SUBMISSION_HEADER: submission_id})


def invalid(where: str | None, message: str, kind: str = "value_error") -> Reply:
    """Return a 422 as FastAPI writes it. `where`: the member of the body, or None for the body itself."""
    return error(422, [{"type": kind, "loc": ["body", *([where] if where else [])], "msg": message, "input": None}])


def malformed(problem: NotAnObject) -> Reply:
    """Return the 422 for a body that is not a JSON object, as Skyvern words it."""
    if problem.position is None:
        return invalid(
            None, "Input should be a valid dictionary or object to extract fields from", "model_attributes_type"
        )
    problem_detail = {
        "type": "json_invalid",
        "loc": ["body", problem.position],
        "msg": "JSON decode error",
        "input": {},
    }
    return error(422, [{**problem_detail, "ctx": {"error": str(problem)}}])


def relay(answer: Answer, secrets: SecretScan = NO_SECRETS, *, replacing: Mapping[bytes, bytes] | None = None) -> Reply:
    """Return Skyvern's `answer` as a caller may see it. `replacing`: texts of the body, such as our callback URL, and
    their replacements. An answer becomes a 502 when it holds one of `secrets`, or is compressed, which Runhook
    never asks for."""
    if isinstance(answer, Unreachable):
        return unreachable(answer)
    if answer.status != _NOT_MODIFIED and not 200 <= answer.status < 300 and answer.status < 400:
        return error(502, f"Skyvern answered with status {answer.status}, which is not followed")
    if answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return error(502, "Skyvern's answer has a content-encoding that was not asked for")
    headers = relayed_headers(answer.headers)
    if secrets.found_in(answer.body) or secrets.found_in("\n".join(headers.values()).encode("utf-8", "replace")):
        return error(502, "the answer held a secret of this service and was not passed on")
    body = answer.body
    for old, new in (replacing or {}).items():
        body = body.replace(old, new)
    if answer.status >= 400 and not isinstance(answer.json_outline(), dict):
        headers = {"content-type": "application/json"} | {k: v for k, v in headers.items() if k == "retry-after"}
        body = json.dumps({"detail": f"Skyvern answered with status {answer.status}"}).encode()
    return Reply(answer.status, body, headers)


def relayed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of an answer's headers that are passed on to the caller."""
    return {name: value for name, value in headers.items() if name in _RELAYED}


def unreachable(answer: Unreachable) -> Reply:
    """Return the error for a call without an answer: 400 when it could not even be put into a request, 503 when it did
    nothing, else 504 after a time-out or 502."""
    if answer.invalid:
        return error(400, answer.reason)
    if not answer.ambiguous:
        return error(503, f"Skyvern can't be reached; no run was created: {answer.reason}", retry_after=RETRY_AFTER)
    return error(504 if "in time" in answer.reason else 502, f"what became of the call is not known: {answer.reason}")


def read_failed(answer: Unreachable) -> Reply:
    """Return the error for a GET without an answer: 400 when it could not even be put into a request, 504 after a
    time-out, else 503."""
    if answer.invalid:
        return error(400, answer.reason)
    return error(504 if "in time" in answer.reason else 503, answer.reason, retry_after=RETRY_AFTER)


def submit_reply(answer: Answer, secrets: SecretScan, replacing: Mapping[bytes, bytes]) -> Reply:
    """Return the reply to a submit. `secrets` and `replacing`: see `relay`."""
    if isinstance(answer, Answered) and answer.ok and not isinstance(answer.json_outline(), dict):
        return error(502, "Skyvern's answer to the submit was not understood; whether a run exists is not known yet")
    if isinstance(answer, Answered) and answer.status == 408:
        return error(504, "Skyvern did not respond in time; whether a run exists is not known yet")
    return relay(answer, secrets, replacing=replacing)
