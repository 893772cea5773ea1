"""The endpoints that create runs and take a callback URL, and the scope that each call of Skyvern's paths needs. Pure.

Read in the source of Skyvern 1.0.56. Its other endpoints that create runs do not make submissions: `POST
/v1/run/workflows/blocks` is for the debugger of its own editor, and `POST /v1/workflows/runs/{id}/retry` takes no body
that could hold a callback URL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class SubmitEndpoint:
    """`name`: what the ledger calls it. `url_field`: the field of the request that holds the callback URL. `answer`:
    the run as in GET /v1/runs/{id}, or only the id of a task, or of a workflow's run."""

    name: str
    path: str
    url_field: str = "webhook_url"
    answer: Literal["run", "task", "workflow run"] = "run"


class SubmitCall(NamedTuple):
    """A call of such an endpoint. `path`, `query`: as they were on the wire. `headers`: by lower-case name."""

    endpoint: SubmitEndpoint
    path: str
    query: str
    body: bytes
    headers: Mapping[str, str]


ENDPOINTS: Final = (
    SubmitEndpoint("tasks", "/v1/run/tasks"),
    SubmitEndpoint("agents", "/v1/run/agents"),
    SubmitEndpoint("workflows", "/v1/run/workflows"),
    SubmitEndpoint("login", "/v1/run/tasks/login"),
    SubmitEndpoint("download_files", "/v1/run/tasks/download_files"),
    SubmitEndpoint("legacy", "/api/v1/tasks", "webhook_callback_url", "task"),
    SubmitEndpoint("legacy_workflow", "/api/v1/workflows/{workflow_id}/run", "webhook_callback_url", "workflow run"),
)
_ROOTS = (("v1",), ("api", "v1"))
# Path segments that return, or create, credentials of Skyvern itself.
_REFUSED = frozenset({"apikeys", "api_keys", "api-keys", "ui-session", "internal", ".", "..", ""})
# The last segments of paths below credentials/<vault> that return the vault's own token or client secret.
_VAULT = frozenset({"get", "create"})
# Path segments below which a GET returns codes of a second factor.
_CODES = frozenset({"totp", "totp-code"})
_BY_NAME: Final = {endpoint.name: endpoint for endpoint in ENDPOINTS}


def short_answer(name: str, run_id: str, run: Any = None) -> bytes | None:
    """Return the body of an endpoint's answer that holds ids only. `run`: of GET /v1/runs/{id}, if it was fetched.

    None when the endpoint answers with the run itself, or when `run` is needed and does not have the workflow's id.
    """
    endpoint = _BY_NAME.get(name)
    if endpoint is None or endpoint.answer == "run":
        return None
    if endpoint.answer == "task":
        return json.dumps({"task_id": run_id}).encode()
    request = run.get("run_request") if isinstance(run, Mapping) else None
    workflow = request.get("workflow_id") if isinstance(request, Mapping) else None
    return json.dumps({"workflow_id": workflow, "workflow_run_id": run_id}).encode() if workflow else None


def scope_of(method: str, path: str) -> str | None:
    """Return the scope that a call needs, or None when no key may make it. `path`: as it was on the wire."""
    decoded = unquote(unquote(path)).replace("\\", "/")
    segments = tuple(decoded.lower().removesuffix("/").split("/")[1:])
    if not decoded.startswith("/") or _REFUSED & set(segments):
        return None
    if not any(segments[: len(root)] == root and len(segments) > len(root) for root in _ROOTS):
        return None
    if "credentials" in segments and segments[-1] in _VAULT:
        return None
    if method in ("GET", "HEAD"):
        return "operate" if _CODES & set(segments) else "read"
    if method not in ("POST", "PUT", "PATCH", "DELETE"):
        return None
    # The calls that create runs: /v1/run/tasks, /v1/run/workflows/blocks, /v1/workflows/{id}/run, /api/v1/tasks.
    creates = "run" in segments[1:3] or segments[-1] == "run" or segments == ("api", "v1", "tasks")
    return "submit" if creates and method == "POST" else "operate"
