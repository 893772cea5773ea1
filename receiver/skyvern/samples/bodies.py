"""One template for each family of run types, with the keys that Skyvern 1.0.56 sends, in its order. Values are ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from receiver.skyvern.samples import artifacts

TASK_TYPES = ("task_v1", "task_v3", "openai_cua", "anthropic_cua", "yutori_navigator", "ui_tars")

ORGANIZATION = "o_700000000000000001"
WORKFLOW = "wpid_700000000000000002"
APP = "https://app.skyvern.com"
PAGE = "https://suppliers.example.com/invoices"

_REASONS = {
    "failed": "The download button never became clickable: element not found after 3 attempts.",
    "terminated": "The supplier's portal lists no invoice for this order, so the goal can't be reached.",
    "timed_out": "The run took longer than the 15 minutes that it was given.",
}
_CATEGORIES = {
    "failed": [{"category": "ELEMENT_NOT_FOUND", "confidence_float": 0.8, "reasoning": "No element matched"}],
}
_ERRORS = {
    "terminated": [{"error_code": "NO_INVOICE", "reasoning": "The list of invoices is empty", "confidence_float": 0.95}]
}


@dataclass(frozen=True)
class Moment:
    """When a body is sent, as the `seq`th of several, and where its artifacts are ("": it has none)."""

    now: float
    seq: int
    artifacts: str

    def number(self, run_id: str | None) -> str:
        """What the ids have in common: the end of `run_id`, else digits of their own for each moment and `seq`."""
        if run_id:
            return "".join(filter(str.isalnum, run_id.rpartition("_")[2])) or "0"
        return f"{int(self.now * 1e6)}{self.seq:03d}"

    def ago(self, seconds: float) -> str:
        """A time as Skyvern writes it: UTC without saying so, with microseconds."""
        moment = datetime.fromtimestamp(self.now - seconds, UTC).replace(tzinfo=None)
        return moment.isoformat(timespec="microseconds")


def dumps(body: Mapping[str, Any]) -> bytes:
    """The bytes of a webhook: compact, unescaped, integral floats as integers."""
    return json.dumps(_integral(body), separators=(",", ":"), ensure_ascii=False).encode()


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def invoice(seq: int) -> dict[str, Any]:
    """The output of a run: an invoice whose total is over 1,000 for about half of all `seq`s, 0 among them."""
    units = (seq + 5) % 9 + 1
    net = round(units * 179.5, 2)
    return {
        "invoice_number": f"INV-{2041 + seq}",
        "supplier": "Söhne & Kůň GmbH",
        "currency": "EUR",
        "lines": [{"description": "Support, days", "quantity": units, "unit_price": 179.5, "amount": net}],
        "net": net,
        "vat": round(net * 0.2, 2),
        "total": round(net * 1.2, 2),
        "paid": False,
        "purchase_order": None,
    }


def _files(moment: Moment, number: str, *, downloads: bool) -> dict[str, Any]:
    """The signed URLs and the downloaded file of a run; nulls when there are none."""
    base = moment.artifacts
    modified = moment.ago(1)
    files = [artifacts.downloaded_file(base, number, moment.now, modified)] if base and downloads else []
    shots = [artifacts.url(base, number, name, moment.now) for name in ("screenshot2", "screenshot1")] if base else None
    return {
        "recording": artifacts.url(base, number, "recording", moment.now) if base else None,
        "screenshots": shots,
        "files": files,
        "file_urls": [file["url"] for file in files] or None,
    }


def task(run_type: str, ending: str, moment: Moment, run_id: str | None) -> dict[str, Any]:
    """A task of one of TASK_TYPES: 31 keys."""
    number = moment.number(run_id)
    run_id = run_id or f"tsk_{number}"
    done = ending == "completed"
    files = _files(moment, number, downloads=done)
    shots = files["screenshots"]
    output = invoice(moment.seq) if done else None
    return {
        "task_id": run_id,
        "status": ending,
        "created_at": moment.ago(64),
        "modified_at": moment.ago(0.01),
        "extracted_information": output,
        "action_screenshot_urls": shots,
        "screenshot_url": shots[0] if shots else None,
        "recording_url": files["recording"],
        "recording_archived": False,
        "browser_console_log_url": None,
        "downloaded_files": files["files"],
        "downloaded_file_urls": files["file_urls"],
        "failure_reason": _REASONS.get(ending),
        "failure_category": _CATEGORIES.get(ending),
        "webhook_failure_reason": None,
        "errors": _ERRORS.get(ending, []),
        "max_steps_per_run": 10,
        "workflow_run_id": None,
        "queued_at": moment.ago(63),
        "started_at": moment.ago(62),
        "finished_at": moment.ago(0.02),
        "max_screenshot_scrolls": None,
        "step_count": 4 if done else 2,
        "browser_session_id": None,
        "run_id": run_id,
        "output": output,
        "screenshot_urls": shots,
        "app_url": f"{APP}/tasks/{run_id}",
        "browser_profile_id": None,
        "script_run": None,
        "run_type": run_type,
    }


def task_v2(ending: str, moment: Moment, run_id: str | None) -> dict[str, Any]:
    """A task of the second kind: 44 keys. `undelivered` is the ending that Skyvern 1.0.50 calls failed."""
    number = moment.number(run_id)
    run_id = run_id or f"tsk_v2_{number}"
    undelivered = ending == "undelivered"
    done = undelivered or ending == "completed"
    reason = _REASONS.get(ending)
    if undelivered:
        reason = f"Failed to run task 2.0: Failed to send webhook.    task_v2_id={run_id}"
    files = _files(moment, number, downloads=done)
    return {
        "task_id": run_id,
        "status": "failed" if undelivered else ending,
        "organization_id": ORGANIZATION,
        "workflow_run_id": f"wr_{number}",
        "workflow_id": f"w_{number}",
        "workflow_permanent_id": WORKFLOW,
        "prompt": "Download the newest invoice and tell its number and total",
        "url": PAGE,
        "summary": "Found and downloaded the newest invoice" if done else None,
        "output": invoice(moment.seq) if done else None,
        "totp_verification_url": None,
        "totp_identifier": None,
        "proxy_location": "RESIDENTIAL",
        "webhook_callback_url": "http://127.0.0.1:8000/webhooks/skyvern",
        "webhook_failure_reason": None,
        "extracted_information_schema": None,
        "error_code_mapping": None,
        "workflow_system_prompt": None,
        "model": None,
        "queued_at": moment.ago(93),
        "started_at": moment.ago(92),
        "finished_at": moment.ago(0.02),
        "max_screenshot_scrolling_times": None,
        "extra_http_headers": None,
        "cdp_connect_headers": None,
        "browser_address": None,
        "run_with": None,
        "failure_category": _CATEGORIES.get(ending),
        "created_at": moment.ago(94),
        "modified_at": moment.ago(0.01),
        "run_id": run_id,
        "downloaded_files": files["files"],
        "recording_url": files["recording"],
        "recording_archived": False,
        "screenshot_urls": files["screenshots"],
        "failure_reason": reason,
        "app_url": f"{APP}/runs/wr_{number}",
        "browser_session_id": None,
        "browser_profile_id": None,
        "max_screenshot_scrolls": None,
        "script_run": None,
        "errors": _ERRORS.get(ending, []),
        "step_count": 6 if done else 3,
        "run_type": "task_v2",
    }


_ENDINGS: dict[str, tuple[str, int, bool, bool]] = {
    # ending: (status, attempt, retry_pending, brings output)
    "completed": ("completed", 1, False, True),
    "retry_pending": ("failed", 1, True, False),
    "retry_pending_again": ("failed", 2, True, False),
    "completed_after_retries": ("completed", 3, False, True),
    "canceled_with_output": ("canceled", 1, False, True),
}


def workflow_run(ending: str, moment: Moment, run_id: str | None) -> dict[str, Any]:
    """A run of a workflow: 58 keys. With a retry policy it sends one body an attempt."""
    status, attempt, pending, brings_output = _ENDINGS.get(ending, (ending, 1, False, False))
    number = moment.number(run_id)
    run_id = run_id or f"wr_{number}"
    done = status == "completed"
    files = _files(moment, number, downloads=done)
    outputs = _outputs(moment, number, files, status) if brings_output else None
    reason = _REASONS.get(status)
    next_attempt = moment.ago(-30) if pending else None
    callback = "http://127.0.0.1:8000/webhooks/skyvern"
    parameters = {"order": f"PO-{1200 + moment.seq}"}
    return {
        "workflow_id": WORKFLOW,
        "workflow_run_id": run_id,
        "status": status,
        "attempt": attempt,
        "retry_pending": pending,
        "next_attempt_at": next_attempt,
        "attempts": _attempts(moment, status, attempt, next_attempt),
        "failure_reason": reason,
        "failure_category": _CATEGORIES.get(status),
        "retried_from_workflow_run_id": None,
        "retried_by_workflow_run_id": None,
        "proxy_location": "RESIDENTIAL",
        "webhook_callback_url": callback,
        "webhook_failure_reason": None,
        "totp_verification_url": None,
        "totp_identifier": None,
        "extra_http_headers": None,
        "cdp_connect_headers": None,
        "queued_at": moment.ago(48),
        "started_at": moment.ago(47),
        "finished_at": moment.ago(0.02),
        "created_at": moment.ago(49),
        "modified_at": moment.ago(0.01),
        "parameters": parameters,
        "screenshot_urls": files["screenshots"],
        "recording_url": files["recording"],
        "recording_urls": [files["recording"]] if files["recording"] else None,
        "recording_archived": False,
        "downloaded_files": files["files"],
        "downloaded_file_urls": files["file_urls"],
        "outputs": outputs,
        "total_steps": 5,
        "total_cost": 0.25,
        "credits_used": 5,
        "cached_credits_used": 0,
        "task_v2": None,
        "workflow_title": "Fetch invoices",
        "browser_session_id": None,
        "browser_profile_id": None,
        "browser_seed_source": "fresh",
        "browser_sink_profile_id": None,
        "max_screenshot_scrolls": None,
        "browser_address": None,
        "run_with": "agent",
        "browser_type": None,
        "script_run": None,
        "script_id": None,
        "errors": _ERRORS.get(status, []),
        "agent_id": WORKFLOW,
        "agent_run_id": run_id,
        "run_id": run_id,
        "output": outputs,
        "app_url": f"{APP}/runs/{run_id}",
        "step_count": 5,
        "run_type": "workflow_run",
        "ai_fallback": None,
        "browser_settings_receipt": None,
        "run_request": {
            "workflow_id": WORKFLOW,
            "parameters": parameters,
            "title": "Fetch invoices",
            "proxy_location": "RESIDENTIAL",
            "webhook_url": callback,
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
        },
    }


def _outputs(moment: Moment, number: str, files: dict[str, Any], status: str) -> dict[str, Any]:
    """What the workflow's one block brought, with the signed URLs that Skyvern writes anew inside of it."""
    found = invoice(moment.seq)
    block = {
        "task_id": f"tsk_{number}",
        "status": status,
        "extracted_information": found,
        "failure_reason": None,
        "errors": [],
        "failure_category": None,
        "downloaded_files": files["files"],
        "downloaded_file_urls": files["file_urls"],
        "downloaded_file_artifact_ids": [file["artifact_id"] for file in files["files"]] or None,
        "task_screenshots": files["screenshots"],
        "workflow_screenshots": files["screenshots"],
    }
    return {"download_invoice_output": block, "extracted_information": [found]}


def _attempts(moment: Moment, status: str, attempt: int, next_attempt: str | None) -> list[dict[str, Any]]:
    """The attempts so far. Those before the last one failed and were tried again."""
    entries = []
    for number in range(1, attempt + 1):
        last = number == attempt
        retried = not last or next_attempt is not None
        start = 47.0 * (attempt - number + 1)
        entries.append(
            {
                "attempt_number": number,
                "status": status if last else "failed",
                "failure_reason": _REASONS.get(status if last else "failed"),
                "error_codes": [],
                "started_at": moment.ago(start),
                "finished_at": moment.ago(start - 40 if not last else 0.02),
                "retry_decision": "retry" if retried else None,
                "decision_reason": None,
                "next_attempt_at": next_attempt if last else moment.ago(start - 45),
                "webhook_sent_at": None if last else moment.ago(start - 41),
            }
        )
    return entries
