"""`run_request`, the echo of a run's request, which differs from answer to answer. Pure.

The response to a submit has the request as it came; a poll, and a workflow's webhook, only what Skyvern 1.0.56
builds from the run's row: no title of a task, no headers, no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from receiver.domain import members
from simulator.runs import RUN_TYPES, WORKFLOW, SimRun

_TASK = members.RUN_REQUEST[members.TASK]
_WORKFLOW = members.RUN_REQUEST[members.WORKFLOW]
# What only the older calls have: these have no default for the proxy, as a request with null has none.
_OF_OLDER_CALLS = frozenset({"navigation_goal", "data"})
_ENGINES = {run_type: engine for engine, run_type in RUN_TYPES.items()}
# What a poll keeps of the request, by run type: that of a task_v2 has fewer.
_POLLED_TASK_V2 = frozenset(
    {"url", "totp_identifier", "totp_url", "proxy_location", "data_extraction_schema", "error_code_mapping"}
)
_POLLED_TASK = _POLLED_TASK_V2 | {"max_steps", "max_screenshot_scrolls"}
# What a workflow's webhook keeps of it, and what a poll does.
_BOTH = frozenset({"proxy_location", "totp_url", "totp_identifier", "start_fresh_browser", "browser_type"})
_SENT = _BOTH | {"reuse_browser_session"}
_POLLED_WORKFLOW = _BOTH | {"max_screenshot_scrolls", "browser_address", "browser_profile_id", "browser_session_id"}


def submitted(run: SimRun) -> dict[str, Any]:
    """Return the echo in the answer to a submit: the whole request, with defaults."""
    known = _WORKFLOW if run.type == WORKFLOW else _TASK
    return _echo(run, known, known.keys(), {} if run.type == WORKFLOW else {"title": run.request.get("title")})


def polled(run: SimRun) -> dict[str, Any]:
    """Return the echo in the answer to GET /v1/runs/{id}."""
    if run.type == WORKFLOW:
        return _echo(run, _WORKFLOW, _POLLED_WORKFLOW)
    return _echo(run, _TASK, _POLLED_TASK_V2 if run.workflow_run_id else _POLLED_TASK)


def sent(run: SimRun) -> dict[str, Any]:
    """Return the echo in a workflow's webhook."""
    return _echo(run, _WORKFLOW, _SENT)


def proxy_location(run: SimRun) -> Any:
    """Return the proxy that the request names, null too; the default only for a request without the member."""
    older = run.request.keys() & _OF_OLDER_CALLS
    return run.request.get("proxy_location", None if older else _TASK["proxy_location"])


def _echo(run: SimRun, fields: Mapping[str, Any], kept: Any, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    given = {name: value for name, value in run.request.items() if name in kept and value is not None}
    own: dict[str, Any] = {"webhook_url": run.callback, "proxy_location": proxy_location(run)}
    if run.type == WORKFLOW:
        parameters = run.request.get("parameters") or run.request.get("data") or {}
        own |= {"workflow_id": run.workflow_id, "title": run.title, "parameters": parameters}
    else:
        own |= {"prompt": run.request.get("prompt") or run.request.get("navigation_goal") or ""}
        own |= {"engine": _ENGINES[run.type]}
        if "max_steps" in kept:
            own |= {"max_steps": run.max_steps}
    return {**fields, **given, **own, **(more or {})}
