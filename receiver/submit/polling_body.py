"""The body of an answer to a GET, made of a result in the ledger: in the form of Skyvern's own. Pure.

Members that the run has stay as they came: a 20-digit integer does not become a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.domain import shape
from receiver.domain.run import parse
from receiver.ledger.runs import RunResult
from receiver.skyvern.polling import polled
from receiver.submit.json_object import NotAnObject, parse_object, to_bytes
from receiver.submit.kept_request import CALL

# The smallest run object that the official SDK accepts.
_REQUIRED: Final = ("run_id", "run_type", "status", "created_at", "modified_at")


def polling_body(result: RunResult, body: bytes, callback: str, more: Mapping[str, object]) -> tuple[bytes, str] | None:
    """Return the body of the answer, and the status that Skyvern gave; None when the run lacks what each must have.

    `body`: of the result, or what Skyvern answers now. `callback`: the callback URL of its submission, or "". `more`:
    further members.
    """
    try:
        came = parse_object(body)
    except NotAnObject:
        return None
    data = parse(body).data
    run = shape.completed(data, _completion(result, data))
    request = result.request or {}
    older = str(request.get(CALL, {}).get("path", "")).startswith("/api/")
    exact = {"proxy_location": request.get("proxy_location")} if older else {}
    members = {**polled(data, run, _answered(result), callback, **exact), **more}
    if any(members.get(name) is None for name in _REQUIRED):
        return None
    status = str(members["status"])
    if status != result.status.outcome:
        members["status"] = result.status.outcome
    # The name of a member with a NUL or half a character in it is another one in `data`.
    as_they_came = {name for name, value in members.items() if name in came and name in data and data[name] is value}
    return to_bytes({name: came[name] if name in as_they_came else value for name, value in members.items()}), status


def _completion(result: RunResult, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the body lacks: as it was recorded, else from the request of its submission."""
    if result.completion or result.request is None:
        return result.completion
    return shape.completion_of(shape.completed(data), request=result.request)


def _answered(result: RunResult) -> Mapping[str, Any] | None:
    """Return the `run_request` of Skyvern's answer to the submit, if it was recorded."""
    try:
        request = parse_object(result.answer or b"").get("run_request")
    except NotAnObject:
        return None
    return request if isinstance(request, Mapping) else None
