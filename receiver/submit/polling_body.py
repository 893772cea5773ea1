"""The response body for a GET of a run, made from a result in the ledger in Skyvern's own form. Pure.

Members of the run are not converted: a 20-digit integer does not become a float. Their order is in domain/members. A
member of the request that a poll's `run_request` omits has its default here too, so that responses before and after
the webhook are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.domain import members, shape
from receiver.domain.members import ENGINES, run_request
from receiver.domain.run import parse
from receiver.ledger.runs import RunResult
from receiver.submit.json_object import NotAnObject, parse_object, to_bytes
from receiver.submit.request_record import CALL

# The smallest run object that the official SDK accepts.
_REQUIRED: Final = ("run_id", "run_type", "status", "created_at", "modified_at")
# Defaults of Skyvern's own model for members that a body may lack.
_DEFAULTS: Final[dict[str, Any]] = {"recording_archived": False, "attempt": 1, "retry_pending": False, "attempts": []}
# Members of a workflow's request that its webhook repeats exactly.
_SENT: Final = frozenset({"title", "parameters", "totp_url", "totp_identifier", "browser_type"})
# Members of a workflow's poll that are null or default in its webhook, whatever the request has.
_IF_REQUESTED: Final = ("browser_session_id", "browser_profile_id", "max_screenshot_scrolls", "run_with", "ai_fallback")


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
    content = {**polled(data, run, _answered(result), callback), **more}
    if any(content.get(name) is None for name in _REQUIRED):
        return None
    status = str(content["status"])
    if status != result.status.outcome:
        content["status"] = result.status.outcome
    # A name with a NUL or a lone surrogate differs in `data`.
    unchanged = {name for name, value in content.items() if name in received and name in data and data[name] is value}
    return to_bytes({name: received[name] if name in unchanged else value for name, value in content.items()}), status


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


def polled(
    body: Mapping[str, Any],
    run: Mapping[str, Any],
    answered_request: Mapping[str, Any] | None = None,
    callback: str = "",
) -> dict[str, Any]:
    """Return the members of the response to a poll.

    `body`: the members of the newest event's body. `run`: the completed run; unchanged members are the same objects as
    in `body`. `answered_request`: the `run_request` of Skyvern's response to the submit. `callback`: the callback
    URL of the run, if `body` has none.
    """
    family = members.family(str(run.get("run_type")))
    names = members.POLL[family]
    webhook_only = members.lacking(str(run.get("run_type")))
    answer = {name: run.get(name, _DEFAULTS.get(name)) for name in names}
    request = run.get("run_request")
    requested = request if isinstance(request, Mapping) else {}
    if family == members.WORKFLOW and requested:
        for name in _IF_REQUESTED:
            if requested.get(name) is not None and (answer[name] is None or name == "run_with"):
                answer[name] = requested[name]
        answer["run_with"] = answer["run_with"] or "agent"
    answer["run_request"] = (
        _request(family, body, run, requested, answered_request or {}, callback) if requested else None
    )
    newer = {name: value for name, value in body.items() if name not in answer and name not in webhook_only}
    return {**answer, **newer}  # with the members of later versions of Skyvern


def _request(
    family: str,
    body: Mapping[str, Any],
    run: Mapping[str, Any],
    requested: Mapping[str, Any],
    answered_request: Mapping[str, Any],
    callback: str,
) -> dict[str, Any]:
    names = members.RUN_REQUEST[family]
    own = body.get("run_request")
    if isinstance(own, Mapping) and not body.keys() & members.lacking(str(run.get("run_type"))):
        return dict(own)  # the body itself came by a poll
    left_out = members.LEFT_OUT[family]
    webhook_request = own if isinstance(own, Mapping) else {}
    defaults = run_request(str(run.get("run_type")), {})
    request = {}
    for name in names:
        values = [each[name] for each in (webhook_request, answered_request, requested) if name in each]
        null_is_exact = name == "proxy_location" or (name in webhook_request and name in _SENT)
        if not null_is_exact:
            values = [value for value in values if value is not None and name not in left_out]
        request[name] = values[0] if values else defaults.get(name)
    if family == members.WORKFLOW:
        if request["parameters"] is None:
            request["parameters"] = {}
        if request["start_fresh_browser"]:
            request |= {"browser_session_id": None, "browser_profile_id": None}
        own_url = webhook_request.get("webhook_url")
    else:
        own_url = run.get("webhook_callback_url")
        request["engine"] = ENGINES.get(str(run.get("run_type")), request["engine"])
        request["prompt"] = request["prompt"] or ""
        if family == members.TASK and run.get("max_steps_per_run") is not None:
            request["max_steps"] = run["max_steps_per_run"]
    return {**request, "webhook_url": own_url or callback or None}
