"""The bodies of one run by each road, made of its webhook: what a poll and a webhook that is sent again lack.

The keys are those of Skyvern 1.0.56: its models TaskRunResponse and WorkflowRunResponse (skyvern/schemas/runs.py).
"""

from __future__ import annotations

import json
from typing import Any

from simulator import samples

COMMON = frozenset(
    """
    run_id status output downloaded_files recording_url recording_archived screenshot_urls failure_reason created_at
    modified_at queued_at started_at finished_at app_url browser_session_id browser_profile_id max_screenshot_scrolls
    script_run errors step_count run_type run_request
    """.split()  # noqa: SIM905 - a list of them fills half a page
)
OF_WORKFLOWS = frozenset(
    """
    attempt retry_pending next_attempt_at attempts run_with ai_fallback script_id browser_seed_source
    browser_settings_receipt
    """.split()  # noqa: SIM905
)
NOT_SENT_AGAIN = frozenset(
    {"webhook_callback_url", "totp_verification_url", "totp_identifier", "extra_http_headers", "run_request"}
)
# What a task was asked for: its webhook does not say so.
PROMPT, URL = "Get the price", "https://example.com/p/1"
FINISHED = [name for name in samples.names() if "retry_pending" not in name and "undelivered" not in name]


def webhook(name: str, now: float, run_id: str | None = None) -> dict[str, Any]:
    """The webhook of a sample, with files."""
    body: dict[str, Any] = json.loads(
        samples.build(name, now=now, run_id=run_id, artifacts="https://api.skyvern.com/v1/artifacts")
    )
    return body


def request_of(body: dict[str, Any]) -> dict[str, Any]:
    """What the run of a webhook was asked for, as its submission keeps it."""
    if body["run_type"] == "workflow_run":
        return {"workflow_id": body["workflow_id"], "parameters": body["parameters"], "title": body["workflow_title"]}
    return {
        "prompt": body.get("prompt") or PROMPT,
        "url": body.get("url") or URL,
        "max_steps": body.get("max_steps_per_run"),
    }


def poll(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to GET /v1/runs/{id} for the run of a webhook."""
    workflow = body["run_type"] == "workflow_run"
    kept = COMMON | OF_WORKFLOWS if workflow else COMMON
    request = body["run_request"] if workflow else request_of(body) | {"engine": "skyvern-1.0", "webhook_url": None}
    return {name: value for name, value in body.items() if name in kept} | {"run_request": request}


def early_poll(body: dict[str, Any]) -> dict[str, Any]:
    """The same between the end of the run and its webhook: its files are not saved yet."""
    return poll(body) | {"downloaded_files": [], "recording_url": None, "screenshot_urls": None}


def sent_again(body: dict[str, Any]) -> dict[str, Any]:
    """The webhook as retry_webhook sends it."""
    if body["run_type"] == "task_v2":
        return {name: value for name, value in body.items() if name in COMMON}
    if body["run_type"] == "workflow_run":
        return {name: value for name, value in body.items() if name not in NOT_SENT_AGAIN} | {"step_count": None}
    return dict(body)
