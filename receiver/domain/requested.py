"""What was asked for, in the form of Skyvern's `run_request`. Pure.

Skyvern's answers hold a run's request with all its members, in the order and with the defaults of its models
TaskRunRequest and WorkflowRunRequest (1.0.56, skyvern/schemas/runs.py). The webhook of a task has none, so it is made
of the request that was submitted. Our callback URL is never in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_TASK: Final[dict[str, Any]] = {
    "prompt": None,
    "url": None,
    "engine": "skyvern-1.0",
    "title": None,
    "proxy_location": "RESIDENTIAL",
    "data_extraction_schema": None,
    "error_code_mapping": None,
    "max_steps": None,
    "webhook_url": None,
    "totp_identifier": None,
    "totp_url": None,
    "browser_session_id": None,
    "browser_profile_id": None,
    "start_fresh_browser": False,
    "model": None,
    "extra_http_headers": None,
    "cdp_connect_headers": None,
    "publish_workflow": False,
    "include_action_history_in_verification": False,
    "max_screenshot_scrolls": None,
    "browser_address": None,
    "run_with": None,
    "file_ids": None,
}
_WORKFLOW: Final[dict[str, Any]] = {
    "workflow_id": None,
    "parameters": None,
    "title": None,
    "proxy_location": "RESIDENTIAL",
    "webhook_url": None,
    "totp_url": None,
    "totp_identifier": None,
    "browser_session_id": None,
    "reuse_browser_session": None,
    "browser_profile_id": None,
    "start_fresh_browser": False,
    "max_screenshot_scrolls": None,
    "max_elapsed_time_minutes": None,
    "extra_http_headers": None,
    "cdp_connect_headers": None,
    "browser_address": None,
    "ai_fallback": None,
    "run_with": None,
    "browser_type": None,
    "run_metadata": None,
    "file_ids": None,
}
# The engine of each run type, which Skyvern tells whatever was asked for.
ENGINES: Final = {
    "task_v1": "skyvern-1.0",
    "task_v2": "skyvern-2.0",
    "task_v3": "skyvern-3.0",
    "openai_cua": "openai-cua",
    "anthropic_cua": "anthropic-cua",
    "ui_tars": "ui-tars",
    "yutori_navigator": "yutori-navigator",
}
# Names of POST /api/v1/tasks, and what they are called in a run_request.
_LEGACY: Final = {
    "navigation_goal": "prompt",
    "extracted_information_schema": "data_extraction_schema",
    "totp_verification_url": "totp_url",
    "max_steps_per_run": "max_steps",
}


def run_request(run_type: str, request: Mapping[str, Any], *, older: bool = False) -> dict[str, Any]:
    """Return the `run_request` of a run of `run_type` that was asked for with `request`.

    Members that Skyvern's form has no place for are left out. `older`: by a call under /api/v1, which sets no proxy
    where none was asked for.
    """
    defaults = _WORKFLOW if run_type == "workflow_run" else _TASK
    given = {_LEGACY.get(name, name): value for name, value in request.items() if value is not None}
    if "agent_id" in given:
        given.setdefault("workflow_id", given["agent_id"])
    if run_type in ENGINES:
        given["engine"] = ENGINES[run_type]
    if older:
        given.setdefault("proxy_location", None)
    return {**defaults, **{name: value for name, value in given.items() if name in defaults}, "webhook_url": None}
