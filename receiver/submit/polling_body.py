"""The response body for a GET of a run, made from a result in the ledger in Skyvern's own form. Pure.

Members of the run are not converted: a 20-digit integer does not become a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.domain import shape
from receiver.domain.run import parse
from receiver.ledger.runs import RunResult
from receiver.skyvern.polling import polled
from receiver.submit.json_object import NotAnObject, parse_object, to_bytes
from receiver.submit.request_record import CALL

# The smallest run object that the official SDK accepts.
_REQUIRED: Final = ("run_id", "run_type", "status", "created_at", "modified_at")


def polling_body(result: RunResult, body: bytes, callback: str, more: Mapping[str, object]) -> tuple[bytes, str] | None:
    """Return the response body and Skyvern's status of the run; None if the run lacks a required member.

    `body`: of the result, or of Skyvern's response now. `callback`: the callback URL of its submission, or "". `more`:
    further members.
    """
    try:
        received = parse_object(body)
    except NotAnObject:
        return None
    data = parse(body).data
    run = shape.completed(data, _completion(result, data))
    members = {**polled(data, run, _answered(result), callback), **more}
    if any(members.get(name) is None for name in _REQUIRED):
        return None
    status = str(members["status"])
    if status != result.status.outcome:
        members["status"] = result.status.outcome
    # A name with a NUL or a lone surrogate differs in `data`.
    unchanged = {name for name, value in members.items() if name in received and name in data and data[name] is value}
    return to_bytes({name: received[name] if name in unchanged else value for name, value in members.items()}), status


def _completion(result: RunResult, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the members that complete the body: the recorded ones, else those of its submission's request."""
    if result.completion or result.request is None:
        return result.completion
    older = str(result.request.get(CALL, {}).get("path", "")).startswith("/api/")
    return shape.completion_of(shape.completed(data), request=result.request, older=older)


def _answered(result: RunResult) -> Mapping[str, Any] | None:
    """Return the `run_request` of Skyvern's recorded response to the submit, or None."""
    try:
        request = parse_object(result.answer or b"").get("run_request")
    except NotAnObject:
        return None
    return request if isinstance(request, Mapping) else None
