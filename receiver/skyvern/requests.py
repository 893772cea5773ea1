"""The calls of Skyvern's API, as values: method, path, what kind it is and how long it may take. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

import orjson

from receiver.skyvern.responses import Kind

SUBMIT_LIMIT: Final = 60.0
"""Seconds. Without a url, Skyvern asks a language model for one before it answers."""
READ_LIMIT: Final = 30.0
ACT_LIMIT: Final = 110.0
"""Cancel sends the webhook before it answers: three attempts of 30 s, and the pauses."""
RETRY_WEBHOOK_LIMIT: Final = 75.0
"""One attempt of 60 s."""

_JSON: Final = {"content-type": "application/json"}
_PASSED_ON: Final = frozenset(
    {"accept", "accept-language", "content-type", "range", "if-none-match", "if-modified-since"}
)

_NEVER_PASSED_ON: Final = (
    *("x-runhook-", "x-forwarded-", "x-real-", "x-envoy-", "x-host"),
    *("x-original-", "x-rewrite-", "x-http-method", "x-method-"),
)


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call. `limit`: seconds that one try may take. `path` and `query` as they stand on the wire."""

    method: str
    path: str
    kind: Kind
    limit: float
    query: str = ""
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def submit(path: str, body: bytes, headers: Mapping[str, str], query: str = "") -> ApiCall:
    """One of the calls that make runs. `headers`: the caller's."""
    return ApiCall(
        "POST", path, "submit", SUBMIT_LIMIT, query=query, body=body, headers={**_JSON, **passed_on(headers)}
    )


def get_run(run_id: str) -> ApiCall:
    """GET /v1/runs/{id}."""
    return ApiCall("GET", f"/v1/runs/{_segment(run_id)}", "read", READ_LIMIT)


def list_runs(
    page: int, page_size: int, status: Sequence[str], run_type: Sequence[str], search_key: str | None
) -> ApiCall:
    """GET /v1/runs."""
    query: list[tuple[str, str]] = [("page", str(page)), ("page_size", str(page_size))]
    query += [("status", each) for each in status] + [("run_type", each) for each in run_type]
    query += [("search_key", search_key)] if search_key else []
    return ApiCall("GET", "/v1/runs", "read", READ_LIMIT, query=urlencode(query))


def artifacts(run_id: str) -> ApiCall:
    """GET /v1/runs/{id}/artifacts."""
    return ApiCall("GET", f"/v1/runs/{_segment(run_id)}/artifacts", "read", READ_LIMIT)


def cancel(run_id: str) -> ApiCall:
    """POST /v1/runs/{id}/cancel."""
    return ApiCall("POST", f"/v1/runs/{_segment(run_id)}/cancel", "act", ACT_LIMIT)


def cancel_many(run_ids: Sequence[str]) -> ApiCall:
    """POST /v1/runs/cancel."""
    return ApiCall(
        "POST", "/v1/runs/cancel", "act", ACT_LIMIT, body=orjson.dumps({"run_ids": list(run_ids)}), headers=_JSON
    )


def retry_webhook(run_id: str, webhook_url: str | None) -> ApiCall:
    """POST /v1/runs/{id}/retry_webhook."""
    body = orjson.dumps({"webhook_url": webhook_url}) if webhook_url else None
    path = f"/v1/runs/{_segment(run_id)}/retry_webhook"
    return ApiCall("POST", path, "act", RETRY_WEBHOOK_LIMIT, body=body, headers=_JSON if body else {})


def forward(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> ApiCall:
    """A caller's own request. Any POST may create a run, as far as is known here, so only a GET or HEAD is a read."""
    method = method.upper()
    if method in ("GET", "HEAD"):
        return ApiCall(method, path, "read", READ_LIMIT, query=query, body=body or None, headers=passed_on(headers))
    return ApiCall(method, path, "submit", ACT_LIMIT, query=query, body=body, headers=passed_on(headers))


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of a caller's headers that concern Skyvern. Never credentials: those are the source's own; and none by
    which a proxy before Skyvern might take the request for another one than its scope was asked for."""
    kept = {}
    for name, value in headers.items():
        lowered = name.lower()
        ours = lowered.startswith(_NEVER_PASSED_ON) or lowered == "x-api-key"
        if lowered in _PASSED_ON or (lowered.startswith("x-") and not ours):
            kept[lowered] = value
    return kept


def _segment(value: str) -> str:
    return quote(value, safe="")
