"""The webhooks of the Test button in Skyvern's UI (1.0.56): signed, completed, and alike except for their times. Pure.

They differ from a run's: times are aware, a task has its `run_request`, and nothing that they name exists.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

TASK_ID = "tsk_sample_123456789"
WORKFLOW_RUN_ID = "wr_sample_123456789"

_RECEIVER = "https://webhook.example.com/receive"
_SITE = "https://example.com"
_SESSION = "pbs_sample_123456"


def body(run_type: str, now: float, run_id: str | None = None) -> dict[str, Any]:
    """Return what one press sends at `now` (seconds since the epoch). `run_type`: task or workflow_run."""
    moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    times = dict.fromkeys(("created_at", "modified_at", "queued_at", "started_at", "finished_at"), moment)
    return _workflow_run(times, run_id or WORKFLOW_RUN_ID) if run_type == "workflow_run" else _task(times, run_id)


def _task(times: dict[str, str], run_id: str | None) -> dict[str, Any]:
    run_id = run_id or TASK_ID
    found = {"sample_field": "sample_value", "example_data": "This is sample extracted data from the task"}
    shots = [f"{_SITE}/screenshots/task-action-{number}.png" for number in (1, 2)]
    return {
        "task_id": run_id,
        "status": "completed",
        "created_at": times["created_at"],
        "modified_at": times["modified_at"],
        "extracted_information": found,
        "action_screenshot_urls": shots,
        "screenshot_url": f"{_SITE}/screenshots/task-final.png",
        "recording_url": f"{_SITE}/recordings/task.mp4",
        "recording_archived": False,
        "browser_console_log_url": None,
        "downloaded_files": None,
        "downloaded_file_urls": [],
        "failure_reason": None,
        "failure_category": None,
        "webhook_failure_reason": None,
        "errors": [],
        "max_steps_per_run": 10,
        "workflow_run_id": None,
        "queued_at": times["queued_at"],
        "started_at": times["started_at"],
        "finished_at": times["finished_at"],
        "max_screenshot_scrolls": None,
        "step_count": None,
        "browser_session_id": _SESSION,
        "run_id": run_id,
        "output": found,
        "screenshot_urls": shots,
        "app_url": f"https://app.skyvern.com/tasks/{run_id}",
        "script_run": None,
        "run_type": "task_v1",
        "run_request": {
            "prompt": "Visit the sample site and collect information",
            "url": f"{_SITE}/start",
            "proxy_location": "RESIDENTIAL",
            "data_extraction_schema": None,
            "error_code_mapping": None,
            "webhook_url": _RECEIVER,
            "browser_session_id": None,
            "extra_http_headers": {"x-sample-header": "value"},
        },
    }


def _workflow_run(times: dict[str, str], run_id: str) -> dict[str, Any]:
    agent = "wpid_sample_123"
    outputs = {"result": "success", "data": "Sample workflow output"}
    parameters = {"sample_param": "sample_value"}
    return {
        "workflow_id": agent,
        "workflow_run_id": run_id,
        "status": "completed",
        "attempt": 1,
        "retry_pending": False,
        "next_attempt_at": None,
        "attempts": [],
        "failure_reason": None,
        "failure_category": None,
        "retried_from_workflow_run_id": None,
        "retried_by_workflow_run_id": None,
        "proxy_location": "RESIDENTIAL",
        "webhook_callback_url": _RECEIVER,
        "webhook_failure_reason": None,
        "totp_verification_url": None,
        "totp_identifier": None,
        "extra_http_headers": None,
        "cdp_connect_headers": None,
        "queued_at": times["queued_at"],
        "started_at": times["started_at"],
        "finished_at": times["finished_at"],
        "created_at": times["created_at"],
        "modified_at": times["modified_at"],
        "parameters": parameters,
        "screenshot_urls": [f"{_SITE}/screenshots/workflow-step.png"],
        "recording_url": f"{_SITE}/recordings/workflow.mp4",
        "recording_urls": None,
        "recording_archived": False,
        "downloaded_files": None,
        "downloaded_file_urls": [],
        "outputs": outputs,
        "total_steps": 5,
        "total_cost": None,
        "credits_used": 5,
        "cached_credits_used": 2,
        "task_v2": None,
        "workflow_title": "Sample Workflow",
        "browser_session_id": _SESSION,
        "browser_profile_id": None,
        "browser_seed_source": None,
        "browser_sink_profile_id": None,
        "max_screenshot_scrolls": None,
        "browser_address": None,
        "run_with": "agent",
        "browser_type": None,
        "script_run": None,
        "script_id": None,
        "errors": [],
        "agent_id": agent,
        "agent_run_id": run_id,
        "run_id": run_id,
        "output": outputs,
        "app_url": f"https://app.skyvern.com/runs/{run_id}",
        "run_type": "workflow_run",
        "run_request": {
            "workflow_id": agent,
            "parameters": parameters,
            "title": "Sample Workflow",
            "proxy_location": "RESIDENTIAL",
            "webhook_url": _RECEIVER,
        },
    }
