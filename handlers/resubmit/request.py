"""Build the request that submits a run again: the first submission's, with changes. Pure.

Runhook stores each submission's redacted request and sends it again, to the same path. Masked values are taken from
`run_request`, Skyvern's echo of the request. Without a stored request only the echo is used; it lacks some fields
(Skyvern 1.0.56), and the run's body has a few of them. A mask is never sent as a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic import SecretStr

from handlers.contract import Delivery, Refused
from handlers.support import templating

# Variables of templates in `changes`: `request` is the first request, `try` the new try's number.
VARIABLES: Final = templating.VARIABLES | {"request", "try"}
# Masks of secrets: Runhook's, and Skyvern's in headers.
MASKS: Final = ("[redacted]", "***")
# Request fields that `run_request` may lack, and that runs and webhooks contain.
FIELDS_BESIDE_REQUEST: Final = ("extra_http_headers", "cdp_connect_headers", "model", "run_with", "ai_fallback")

# Fields of Skyvern's older calls, and their names in a `run_request`.
_ECHOED_AS: Final = {
    "navigation_goal": "prompt",
    "data": "parameters",
    "extracted_information_schema": "data_extraction_schema",
    "totp_verification_url": "totp_url",
    "webhook_callback_url": "webhook_url",
    "agent_id": "workflow_id",
}

MAX_DEPTH = 50
_STEPS = "max_steps"
_STEPS_HEADER = "x-max-steps-override"
_TASKS = "/v1/run/tasks"
_OLDER = "/api/"


class Request(NamedTuple):
    """The request to post. `path`: with its query. `headers`: the request's, without transport headers."""

    path: str
    fields: dict[str, Any]
    headers: dict[str, str]


class Changes:
    """A JSON merge patch (RFC 7386) whose strings may be templates.

    A result that is JSON is parsed, so "{{ 25 * try }}" gives a number. The constructor raises ValueError for an
    invalid template.
    """

    def __init__(self, patch: Mapping[str, Any]) -> None:
        self._patch = {name: _compiled(value, name, MAX_DEPTH) for name, value in patch.items()}

    def apply(self, fields: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields` with the changes. Raises Refused when a template fails for this run."""
        return _merged(fields, self._patch, context)


def build_request(
    run: Mapping[str, Any],
    delivery: Delivery,
    changes: Changes,
    number: int,
    kept: Mapping[str, Any] | None = None,
) -> Request:
    """Return the request for try `number` of a run. Raises Refused.

    `run`: Skyvern's response to a GET of it. `kept`: the response to a GET with `from=submission`, or None.
    """
    if kept is not None and isinstance(kept.get("request"), Mapping) and isinstance(kept.get("path"), str):
        path, query, fields = _of_kept(run, kept)
    else:
        path, query, fields = "", "", _of_echo(run, delivery)
    fields = changes.apply(fields, {**templating.context_of(delivery), "request": fields, "try": number})
    if masked := sorted(name for name, value in fields.items() if _is_masked(value, name, MAX_DEPTH)):
        raise Refused(
            f"{', '.join(masked)[:200]}: masked, here and in Skyvern's response; set it in changes, or null to omit it"
        )
    if not path and (fields.get("workflow_id") or fields.get("agent_id")):
        path = "/v1/run/workflows"
    elif not path and fields.get("prompt"):
        path = _TASKS
    elif not path:
        raise Refused("the request is unknown: Skyvern returned neither a prompt nor a workflow")
    headers = {}
    if path != _TASKS and (steps := fields.pop(_STEPS, None)):  # older calls use a header
        headers[_STEPS_HEADER] = str(steps)
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise Refused("changes: max_steps is not a number")
    return Request(f"{path}?{query}" if query else path, fields, headers)


def _of_kept(run: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return path, query and fields of the run's original request."""
    request, echo, headers = kept["request"], run.get("run_request"), kept.get("headers")
    fields = {name: value for name, value in request.items() if value is not None}
    for name, value in fields.items():
        if _is_masked(value, name, MAX_DEPTH) and isinstance(echo, Mapping):
            fields[name] = echo.get(_ECHOED_AS.get(name, name)) or value
    if isinstance(headers, Mapping) and isinstance(steps := headers.get(_STEPS_HEADER), str):
        fields.setdefault(_STEPS, int(steps) if steps.isascii() and steps.isdigit() else steps)
    if kept.get("webhook_url"):
        fields["webhook_callback_url" if kept["path"].startswith(_OLDER) else "webhook_url"] = kept["webhook_url"]
    return kept["path"], str(kept.get("query") or ""), fields


def _of_echo(run: Mapping[str, Any], delivery: Delivery) -> dict[str, Any]:
    """Return the request fields in Skyvern's response, completed from the run's body."""
    asked = run.get("run_request")
    fields = {name: value for name, value in asked.items() if value is not None} if isinstance(asked, Mapping) else {}
    for name in FIELDS_BESIDE_REQUEST:
        for source in (run, delivery.run):
            if name not in fields and source.get(name) not in (None, "", {}, []):
                fields[name] = source[name]
    return fields


def _compiled(value: Any, name: str, levels: int) -> Any:
    if not levels:
        raise ValueError("is nested too deeply")
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return templating.compile(value, name=name, variables=VARIABLES)
    if isinstance(value, Mapping):
        return {str(key): _compiled(item, f"{name}.{key}", levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_compiled(item, f"{name}[{index}]", levels - 1) for index, item in enumerate(value)]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: not a JSON value; put it in quotes") from None
    return value


def _merged(fields: Any, patch: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(fields) if isinstance(fields, Mapping) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, dict):
            merged[name] = _merged(merged.get(name), change, context)
        else:
            merged[name] = _filled(change, context)
    return merged


def _filled(change: Any, context: Mapping[str, Any]) -> Any:
    if isinstance(change, templating.Template):
        text = change.render(context)
        try:
            return json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return text
    if isinstance(change, dict):
        return {name: _filled(item, context) for name, item in change.items()}
    if isinstance(change, list):
        return [_filled(item, context) for item in change]
    return change


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _is_masked(value: Any, name: str, levels: int) -> bool:
    """Whether `value` contains a secret's mask. Three stars count only in headers."""
    if isinstance(value, str):
        return value == MASKS[0] or (value == MASKS[1] and "headers" in name)
    if not levels:
        return False
    if isinstance(value, Mapping):
        return any(_is_masked(item, name, levels - 1) for item in value.values())
    return isinstance(value, list) and any(_is_masked(item, name, levels - 1) for item in value)
