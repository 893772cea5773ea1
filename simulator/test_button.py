"""The webhooks of the Test button in Skyvern's UI (1.0.56): signed, completed, and alike except for their times. Pure.

They differ from a run's: times are aware, a task has its `run_request`, and nothing that they name exists.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from receiver.domain.members import TASK, WORKFLOW
from simulator.bodies import ordered
from simulator.keys import TEST_BUTTON

TASK_ID = "tsk_sample_123456789"
WORKFLOW_RUN_ID = "wr_sample_123456789"

_RECEIVER = "https://webhook.example.com/receive"
_SITE = "https://example.com"


def body(run_type: str, now: float, run_id: str | None = None) -> dict[str, Any]:
    """Return what one press sends at `now` (seconds since the epoch). `run_type`: task or workflow_run."""
    moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    times = dict.fromkeys(("created_at", "modified_at", "queued_at", "started_at", "finished_at"), moment)
    workflow = run_type == WORKFLOW
    run_id = run_id or (WORKFLOW_RUN_ID if workflow else TASK_ID)
    common = {
        "run_id": run_id,
        "status": "completed",
        "recording_archived": False,
        "downloaded_file_urls": [],
        "errors": [],
        "browser_session_id": "pbs_sample_123456",
    }
    own = _workflow_run(run_id) if workflow else _task(run_id)
    return ordered(TEST_BUTTON[WORKFLOW if workflow else TASK], times, common, own)


def _task(run_id: str) -> dict[str, Any]:
    extracted = {"sample_field": "sample_value", "example_data": "This is sample extracted data from the task"}
    shots = [f"{_SITE}/screenshots/task-action-{number}.png" for number in (1, 2)]
    return {
        "task_id": run_id,
        "run_type": "task_v1",
        "extracted_information": extracted,
        "output": extracted,
        "action_screenshot_urls": shots,
        "screenshot_urls": shots,
        "screenshot_url": f"{_SITE}/screenshots/task-final.png",
        "recording_url": f"{_SITE}/recordings/task.mp4",
        "max_steps_per_run": 10,
        "app_url": f"https://app.skyvern.com/tasks/{run_id}",
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


def _workflow_run(run_id: str) -> dict[str, Any]:
    agent, title = "wpid_sample_123", "Sample Workflow"
    outputs = {"result": "success", "data": "Sample workflow output"}
    parameters = {"sample_param": "sample_value"}
    return {
        "workflow_id": agent,
        "agent_id": agent,
        "workflow_run_id": run_id,
        "agent_run_id": run_id,
        "run_type": WORKFLOW,
        "attempt": 1,
        "retry_pending": False,
        "attempts": [],
        "proxy_location": "RESIDENTIAL",
        "webhook_callback_url": _RECEIVER,
        "parameters": parameters,
        "screenshot_urls": [f"{_SITE}/screenshots/workflow-step.png"],
        "recording_url": f"{_SITE}/recordings/workflow.mp4",
        "outputs": outputs,
        "output": outputs,
        "total_steps": 5,
        "credits_used": 5,
        "cached_credits_used": 2,
        "workflow_title": title,
        "run_with": "agent",
        "app_url": f"https://app.skyvern.com/runs/{run_id}",
        "run_request": {
            "workflow_id": agent,
            "parameters": parameters,
            "title": title,
            "proxy_location": "RESIDENTIAL",
            "webhook_url": _RECEIVER,
        },
    }
