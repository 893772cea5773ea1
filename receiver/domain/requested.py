"""What was asked for, in the form of Skyvern's `run_request`. Pure.

Skyvern's answers hold a run's request with all its members, in the order and with the defaults of its models
TaskRunRequest and WorkflowRunRequest (1.0.56, skyvern/schemas/runs.py). The webhook of a task has none, so it is made
of the request that was submitted. Our callback URL is never in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final


def _members(names: str) -> dict[str, Any]:
    """Return these members, in this order, as null."""
    return dict.fromkeys(names.split())


# Members and their defaults.
TASK: Final[dict[str, Any]] = _members(
    """
    prompt url engine title proxy_location data_extraction_schema error_code_mapping max_steps webhook_url
    totp_identifier totp_url browser_session_id browser_profile_id start_fresh_browser model extra_http_headers
    cdp_connect_headers publish_workflow include_action_history_in_verification max_screenshot_scrolls
    browser_address run_with file_ids
    """
) | {
    "engine": "skyvern-1.0",
    "proxy_location": "RESIDENTIAL",
    "start_fresh_browser": False,
    "publish_workflow": False,
    "include_action_history_in_verification": False,
}
WORKFLOW: Final[dict[str, Any]] = _members(
    """
    workflow_id parameters title proxy_location webhook_url totp_url totp_identifier browser_session_id
    reuse_browser_session browser_profile_id start_fresh_browser max_screenshot_scrolls max_elapsed_time_minutes
    extra_http_headers cdp_connect_headers browser_address ai_fallback run_with browser_type run_metadata file_ids
    """
) | {"proxy_location": "RESIDENTIAL", "start_fresh_browser": False}
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
    defaults = WORKFLOW if run_type == "workflow_run" else TASK
    given = {_LEGACY.get(name, name): value for name, value in request.items() if value is not None}
    if "agent_id" in given:
        given.setdefault("workflow_id", given["agent_id"])
    if run_type in ENGINES:
        given["engine"] = ENGINES[run_type]
    if older:
        given.setdefault("proxy_location", None)
    return {**defaults, **{name: value for name, value in given.items() if name in defaults}, "webhook_url": None}
