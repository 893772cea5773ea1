"""The calls of Skyvern's API, as values: method, path, kind and time limit. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

from receiver.skyvern.responses import Kind

# Seconds. Without a url, Skyvern asks a language model for one before it answers.
SUBMIT_LIMIT: Final = 60.0
READ_LIMIT: Final = 30.0
# Seconds for all other calls. A cancel sends the webhook before it answers: three attempts of 30 s, and the pauses.
ACT_LIMIT: Final = 110.0
# Seconds for a file of 30 MB, which is the largest that Skyvern takes, over a slow line.
UPLOAD_LIMIT: Final = 600.0
# Maximum pages, and runs per page, of GET /v1/runs (1.0.56, agent_protocol.get_runs_v2).
MAX_PAGES: Final = 100
PAGE_SIZE: Final = 100

_JSON: Final = {"content-type": "application/json"}
# Headers of a caller that Skyvern reads (1.0.56: its routes, and FileResponse), and one to find a call again in its
# logs. Any other one may mean something to a proxy before it.
_FORWARDED = frozenset(("accept", "accept-language", "content-type", "range", "if-none-match"))
_FORWARDED |= {"if-modified-since", "if-range", "x-max-steps-override", "x-max-iterations-override", "x-user-agent"}
_FORWARDED |= {"x-request-id"}


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call. `limit`: seconds that one attempt may take. `path` and `query` as they are on the wire."""

    method: str
    path: str
    kind: Kind
    limit: float
    query: str = ""
    body: bytes | AsyncIterator[bytes] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def submit(path: str, body: bytes, headers: Mapping[str, str] | None = None, query: str = "") -> ApiCall:
    """A call that creates a run, such as POST /v1/run/tasks. Read the answer with `submitted`.

    `headers`: the caller's, filtered here. `path` and `query` as they were on the wire.
    """
    sent = {**_JSON, **_forwarded(headers or {})}
    return ApiCall("POST", path, "submit", SUBMIT_LIMIT, query=query, body=body, headers=sent)


def get_run(run_id: str) -> ApiCall:
    """GET /v1/runs/{id}: 404 when there is no such run."""
    return ApiCall("GET", f"/v1/runs/{_segment(run_id)}", "read", READ_LIMIT)


def list_runs(
    page: int = 1,
    page_size: int = PAGE_SIZE,
    status: Sequence[str] = (),
    run_type: Sequence[str] = (),
    search_key: str = "",
    agent_id: str = "",
) -> ApiCall:
    """GET /v1/runs, newest first; a page over MAX_PAGES gets 422 (1.0.56). Read the answer with `listed_runs`.

    `search_key`: what titles, ids, and (1.0.56) the callback URLs of workflow runs are searched for.
    `agent_id`: only runs of this agent.
    """
    query = [("page", str(page)), ("page_size", str(page_size)), *(("status", each) for each in status)]
    query += [("run_type", each) for each in run_type]
    if search_key:
        query.append(("search_key", search_key))
    if agent_id:
        query.append(("workflow_permanent_id", agent_id))
    return ApiCall("GET", "/v1/runs", "read", READ_LIMIT, query=urlencode(query))


def list_agents(page: int = 1, page_size: int = PAGE_SIZE) -> ApiCall:
    """GET /v1/agents: the newest version of each agent. Read the answer with `listed_agents`."""
    return ApiCall("GET", "/v1/agents", "read", READ_LIMIT, query=f"page={page}&page_size={page_size}")


def update_agent(agent_id: str, definition: bytes, version: int) -> ApiCall:
    """PUT /api/v1/workflows/{id}: make a new version of an agent, unless `version` is no longer its newest one (409).

    `definition`: as `as_yaml` gives it.
    """
    return ApiCall(
        "PUT",
        f"/api/v1/workflows/{_segment(agent_id)}",
        "submit",
        ACT_LIMIT,
        query=urlencode({"expected_version": str(version)}),
        body=definition,
        headers={"content-type": "application/x-yaml"},
    )


def get_agent(agent_id: str) -> ApiCall:
    """GET /v1/agents/{id}: definition and settings of an agent. `agent_id`: the permanent one (wpid_…)."""
    return ApiCall("GET", f"/v1/agents/{_segment(agent_id)}", "read", READ_LIMIT)


def get_details(run_type: str, run_id: str, agent_id: str = "") -> ApiCall:
    """GET what a poll of the run lacks. `agent_id`: of a workflow's run; "" when it is not known.

    Not in Skyvern's documentation: its UI uses these calls, and an API key is enough (measured on 1.0.56).
    """
    if run_type == "workflow_run":
        within = f"/api/v1/workflows/{_segment(agent_id)}/runs" if agent_id else "/v1/workflows/runs"
    else:
        within = "/api/v2/tasks" if run_type == "task_v2" else "/api/v1/tasks"
    return ApiCall("GET", f"{within}/{_segment(run_id)}", "read", READ_LIMIT)


def artifacts(run_id: str, types: Sequence[str] = ()) -> ApiCall:
    """GET /v1/runs/{id}/artifacts, of the artifact types `types` or of all, with fresh signed URLs.

    Read the answer with `listed_artifacts`.
    """
    query = urlencode([("artifact_type", each) for each in types])
    return ApiCall("GET", f"/v1/runs/{_segment(run_id)}/artifacts", "read", READ_LIMIT, query=query)


def forward(
    method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> ApiCall:
    """A caller's own request. As any POST may create a run, only a GET or HEAD is a read, which may be retried."""
    method, sent = method.upper(), _forwarded(headers or {})
    if method in ("GET", "HEAD"):
        return ApiCall(method, path, "read", READ_LIMIT, query=query, body=body or None, headers=sent)
    return ApiCall(method, path, "submit", ACT_LIMIT, query=query, body=body, headers=sent)


def upload(path: str, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> ApiCall:
    """Return a caller's POST with a body that is still being received. It can be sent once only."""
    forwarded = _forwarded(headers)
    length = headers.get("content-length", "")
    if length.isdecimal():
        forwarded["content-length"] = length
    return ApiCall("POST", path, "submit", UPLOAD_LIMIT, query=query, body=body, headers=forwarded)


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those of a caller's headers that Skyvern reads. Never credentials: those are the source's own."""
    lowered = ((name.lower(), value) for name, value in headers.items())
    return {name: value for name, value in lowered if name in _FORWARDED}


def _segment(value: str) -> str:
    return quote(value, safe="")
