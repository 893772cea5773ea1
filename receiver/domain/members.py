"""The members of webhooks, polls and requests of runs, in Skyvern's order, as seen on a real server. Pure.

`simulator/keys.py` has the members that only samples and the simulator need. `make upstream` compares both with
the newest Skyvern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TASK: Final = "task"
"""The family of all run types but the two below: Skyvern builds their bodies alike."""
TASK_V2: Final = "task_v2"
WORKFLOW: Final = "workflow_run"

Members = tuple[str, ...]


def names(text: str) -> Members:
    """Return the words of `text`."""
    return tuple(text.split())


def _nulls(text: str) -> dict[str, Any]:
    return dict.fromkeys(text.split())


def family(run_type: str) -> str:
    """Return the key of the tables below for a run type."""
    return run_type if run_type in (TASK_V2, WORKFLOW) else TASK


WEBHOOK: Final[dict[str, Members]] = {
    TASK: names(
        """
        task_id status created_at modified_at extracted_information action_screenshot_urls screenshot_url recording_url
        recording_archived browser_console_log_url downloaded_files downloaded_file_urls failure_reason failure_category
        webhook_failure_reason errors max_steps_per_run workflow_run_id queued_at started_at finished_at
        max_screenshot_scrolls step_count browser_session_id run_id output screenshot_urls app_url browser_profile_id
        script_run run_type
        """
    ),
    TASK_V2: names(
        """
        task_id status organization_id workflow_run_id workflow_id workflow_permanent_id prompt url summary output
        totp_verification_url totp_identifier proxy_location webhook_callback_url webhook_failure_reason
        extracted_information_schema error_code_mapping workflow_system_prompt model queued_at started_at finished_at
        max_screenshot_scrolling_times extra_http_headers cdp_connect_headers browser_address run_with failure_category
        created_at modified_at run_id downloaded_files recording_url recording_archived screenshot_urls failure_reason
        app_url browser_session_id browser_profile_id max_screenshot_scrolls script_run errors step_count run_type
        """
    ),
    WORKFLOW: names(
        """
        workflow_id workflow_run_id status attempt retry_pending next_attempt_at attempts failure_reason
        failure_category retried_from_workflow_run_id retried_by_workflow_run_id proxy_location webhook_callback_url
        webhook_failure_reason totp_verification_url totp_identifier extra_http_headers cdp_connect_headers queued_at
        started_at finished_at created_at modified_at parameters screenshot_urls recording_url recording_urls
        recording_archived downloaded_files downloaded_file_urls outputs total_steps total_cost credits_used
        cached_credits_used task_v2 workflow_title browser_session_id browser_profile_id browser_seed_source
        browser_sink_profile_id max_screenshot_scrolls browser_address run_with browser_type script_run script_id errors
        agent_id agent_run_id run_id output app_url step_count run_type ai_fallback browser_settings_receipt run_request
        """
    ),
}
"""A webhook's members, whatever the ending."""

EVERY_POLL: Final = names(
    """
    run_id status output downloaded_files recording_url recording_archived screenshot_urls failure_reason created_at
    modified_at queued_at started_at finished_at app_url browser_session_id browser_profile_id max_screenshot_scrolls
    script_run errors step_count run_type
    """
)
"""The members of every poll, whatever the run type."""
_WORKFLOW_POLL: Final = names(
    """
    attempt retry_pending next_attempt_at attempts run_with ai_fallback script_id browser_seed_source
    browser_settings_receipt
    """
)
POLL: Final[dict[str, Members]] = {
    TASK: (*EVERY_POLL, "run_request"),
    TASK_V2: (*EVERY_POLL, "run_request"),
    WORKFLOW: (*EVERY_POLL, *_WORKFLOW_POLL, "run_request"),
}
"""The members of the answer to GET /v1/runs/{id}, and to the submit that made the run."""

_TASK_REQUEST: Final[dict[str, Any]] = {
    **_nulls(
        """
        prompt url engine title proxy_location data_extraction_schema error_code_mapping max_steps webhook_url
        totp_identifier totp_url browser_session_id browser_profile_id start_fresh_browser model extra_http_headers
        cdp_connect_headers publish_workflow include_action_history_in_verification max_screenshot_scrolls
        browser_address run_with file_ids
        """
    ),
    "engine": "skyvern-1.0",
    "proxy_location": "RESIDENTIAL",
    "start_fresh_browser": False,
    "publish_workflow": False,
    "include_action_history_in_verification": False,
}
RUN_REQUEST: Final[dict[str, Mapping[str, Any]]] = {
    TASK: _TASK_REQUEST,
    TASK_V2: _TASK_REQUEST,
    WORKFLOW: {
        **_nulls(
            """
            workflow_id parameters title proxy_location webhook_url totp_url totp_identifier browser_session_id
            reuse_browser_session browser_profile_id start_fresh_browser max_screenshot_scrolls
            max_elapsed_time_minutes extra_http_headers cdp_connect_headers browser_address ai_fallback run_with
            browser_type run_metadata file_ids
            """
        ),
        "proxy_location": "RESIDENTIAL",
        "start_fresh_browser": False,
    },
}
"""A `run_request`: its members in their order, with the defaults of Skyvern's TaskRunRequest and WorkflowRunRequest
(skyvern/schemas/runs.py)."""

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

_TASK_LEFT_OUT: Final = names(
    """
    title browser_session_id model extra_http_headers cdp_connect_headers include_action_history_in_verification
    browser_address run_with file_ids
    """
)
LEFT_OUT: Final[dict[str, Members]] = {
    TASK: _TASK_LEFT_OUT,
    TASK_V2: (*_TASK_LEFT_OUT, "max_steps", "max_screenshot_scrolls"),
    WORKFLOW: names(
        """
        reuse_browser_session max_elapsed_time_minutes extra_http_headers cdp_connect_headers ai_fallback run_with
        run_metadata file_ids
        """
    ),
}
"""What a poll's `run_request` has as default or null, whatever was asked for."""


def lacking(run_type: str) -> frozenset[str]:
    """Return the members of a run type's webhook that a poll lacks."""
    return frozenset(WEBHOOK[family(run_type)]) - frozenset(POLL[family(run_type)])


def run_request(run_type: str, request: Mapping[str, Any], *, older: bool = False) -> dict[str, Any]:
    """Return the `run_request` of a run of `run_type` that was asked for with `request`, in Skyvern's form.

    The webhook of a task has none, so it is made of what was submitted; Runhook's callback URL is never in it. Members
    that the form has no place for are left out. A null `proxy_location` stays: Skyvern's own SDK sends it, and the
    default applies only to a request that lacks the member. `older`: by a call under /api/v1, which has no default.
    """
    defaults = RUN_REQUEST[family(run_type)]
    given = {
        _LEGACY.get(name, name): value
        for name, value in request.items()
        if value is not None or name == "proxy_location"
    }
    if "agent_id" in given:
        given.setdefault("workflow_id", given["agent_id"])
    if run_type in ENGINES:
        given["engine"] = ENGINES[run_type]
    if older:
        given.setdefault("proxy_location", None)
    return {**defaults, **{name: value for name, value in given.items() if name in defaults}, "webhook_url": None}
