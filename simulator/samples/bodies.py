"""One template for each family of run types, with the keys of Skyvern 1.0.56 in its order, and invented values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from receiver.domain import members
from simulator.samples import artifacts

TASK_TYPES = ("task_v1", "task_v3", "openai_cua", "anthropic_cua", "yutori_navigator", "ui_tars")

ORGANIZATION = "o_700000000000000001"
WORKFLOW = "wpid_700000000000000002"
APP = "https://app.skyvern.com"
PAGE = "https://suppliers.example.com/invoices"
CALLBACK_URL = "http://127.0.0.1:8000/webhooks/skyvern"

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


# Seconds since 1970 from which Skyvern counts (skyvern/forge/sdk/db/id.py).
_EPOCH = 1655683200


def run_number(now: float, maker: int) -> int:
    """Return the number of a run that is made at `now`: ids sort by that second. `maker`: distinguishes its runs."""
    return (int(now) - _EPOCH & 0xFFFFFFFF) << 32 | (maker & 0x7FFFFFFF) << 1


@dataclass(frozen=True)
class Moment:
    """When a body is sent, as the `seq`th of several, and where its artifacts are ("": it has none)."""

    now: float
    seq: int
    artifacts: str

    def number(self, run_id: str | None) -> str:
        """Return what the ids have in common: the end of `run_id`, else a number made of the moment and `seq`."""
        if run_id:
            return "".join(filter(str.isalnum, run_id.rpartition("_")[2])) or "0"
        return str(run_number(self.now, (int(self.now % 1 * 1e6) << 11) + self.seq))

    def ago(self, seconds: float) -> str:
        """Return a time as Skyvern writes it: naive UTC, with microseconds."""
        moment = datetime.fromtimestamp(self.now - seconds, UTC).replace(tzinfo=None)
        return moment.isoformat(timespec="microseconds")


def dumps(body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a webhook: compact, unescaped, integral floats as integers."""
    return json.dumps(_integral(body), separators=(",", ":"), ensure_ascii=False).encode()


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def invoice(seq: int) -> dict[str, Any]:
    """Return the output of a run: an invoice whose total is over 1,000 for about half of all `seq`s, 0 among them."""
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
    """Return the signed URLs and the downloaded file of a run, or nulls."""
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


def ordered(names: Iterable[str], *values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with these members in this order, null where there is no value."""
    body: dict[str, Any] = dict.fromkeys(names)
    for each in values:
        assert each.keys() <= body.keys(), each.keys() - body.keys()
        body |= each
    return body


def _common(
    run_type: str, ending: str, run_id: str, moment: Moment, seconds: float, files: dict[str, Any], steps: int
) -> dict[str, Any]:
    """Return the values that each kind of run has. `seconds`: since it started."""
    return {
        "run_id": run_id,
        "run_type": run_type,
        "status": ending,
        "created_at": moment.ago(seconds + 2),
        "queued_at": moment.ago(seconds + 1),
        "started_at": moment.ago(seconds),
        "modified_at": moment.ago(0.01),
        "finished_at": moment.ago(0.02),
        "failure_reason": _REASONS.get(ending),
        "failure_category": _CATEGORIES.get(ending),
        "errors": _ERRORS.get(ending, []),
        "recording_url": files["recording"],
        "recording_archived": False,
        "screenshot_urls": files["screenshots"],
        "downloaded_files": files["files"],
        "step_count": steps,
    }


def task(run_type: str, ending: str, moment: Moment, run_id: str | None) -> dict[str, Any]:
    """Return a task of one of TASK_TYPES: 31 keys."""
    number = moment.number(run_id)
    run_id = run_id or f"tsk_{number}"
    done = ending == "completed"
    files = _files(moment, number, downloads=done)
    shots = files["screenshots"]
    output = invoice(moment.seq) if done else None
    own = {
        "task_id": run_id,
        "output": output,
        "extracted_information": output,
        "action_screenshot_urls": shots,
        "screenshot_url": shots[0] if shots else None,
        "downloaded_file_urls": files["file_urls"],
        "max_steps_per_run": 10,
        "app_url": f"{APP}/tasks/{run_id}",
    }
    return ordered(
        members.WEBHOOK[members.TASK], _common(run_type, ending, run_id, moment, 62, files, 4 if done else 2), own
    )


def task_v2(ending: str, moment: Moment, run_id: str | None) -> dict[str, Any]:
    """Return a task of the second kind: 44 keys. `undelivered` is the ending that Skyvern 1.0.50 calls failed."""
    number = moment.number(run_id)
    run_id = run_id or f"tsk_v2_{number}"
    undelivered = ending == "undelivered"
    done = undelivered or ending == "completed"
    files = _files(moment, number, downloads=done)
    own = {
        "task_id": run_id,
        "organization_id": ORGANIZATION,
        "workflow_run_id": f"wr_{number}",
        "workflow_id": f"w_{number}",
        "workflow_permanent_id": WORKFLOW,
        "prompt": "Download the newest invoice and tell its number and total",
        "url": PAGE,
        "summary": "Found and downloaded the newest invoice" if done else None,
        "output": invoice(moment.seq) if done else None,
        "proxy_location": "RESIDENTIAL",
        "webhook_callback_url": CALLBACK_URL,
        "app_url": f"{APP}/runs/wr_{number}",
    }
    if undelivered:
        reason = f"Failed to run task 2.0: Failed to send webhook.    task_v2_id={run_id}"
        own |= {"status": "failed", "failure_reason": reason}
    return ordered(
        members.WEBHOOK[members.TASK_V2], _common("task_v2", ending, run_id, moment, 92, files, 6 if done else 3), own
    )


_ENDINGS: dict[str, tuple[str, int, bool, bool]] = {
    # ending: (status, attempt, retry_pending, brings output)
    "completed": ("completed", 1, False, True),
    "retry_pending": ("failed", 1, True, False),
    "retry_pending_again": ("failed", 2, True, False),
    "completed_after_retries": ("completed", 3, False, True),
    "canceled_with_output": ("canceled", 1, False, True),
}


def workflow_run(ending: str, moment: Moment, run_id: str | None) -> dict[str, Any]:
    """Return a run of a workflow: 58 keys. With a retry policy it sends one body an attempt."""
    status, attempt, pending, brings_output = _ENDINGS.get(ending, (ending, 1, False, False))
    number = moment.number(run_id)
    run_id = run_id or f"wr_{number}"
    files = _files(moment, number, downloads=status == "completed")
    outputs = _outputs(moment, number, files, status) if brings_output else None
    next_attempt = moment.ago(-30) if pending else None
    asked = {
        "workflow_id": WORKFLOW,
        "parameters": {"order": f"PO-{1200 + moment.seq}"},
        "proxy_location": "RESIDENTIAL",
    }
    request = {"title": "Fetch invoices", "webhook_url": CALLBACK_URL, "start_fresh_browser": False}
    own = {
        "workflow_run_id": run_id,
        "agent_id": WORKFLOW,
        "agent_run_id": run_id,
        "attempt": attempt,
        "retry_pending": pending,
        "next_attempt_at": next_attempt,
        "attempts": _attempts(moment, status, attempt, next_attempt),
        "webhook_callback_url": CALLBACK_URL,
        "recording_urls": [files["recording"]] if files["recording"] else None,
        "downloaded_file_urls": files["file_urls"],
        "output": outputs,
        "outputs": outputs,
        "total_steps": 5,
        "total_cost": 0.25,
        "credits_used": 5,
        "cached_credits_used": 0,
        "workflow_title": "Fetch invoices",
        "browser_seed_source": "fresh",
        "run_with": "agent",
        "app_url": f"{APP}/runs/{run_id}",
        "run_request": ordered(members.RUN_REQUEST[members.WORKFLOW], asked, request),
    }
    return ordered(
        members.WEBHOOK[members.WORKFLOW], _common("workflow_run", status, run_id, moment, 47, files, 5), asked, own
    )


def _outputs(moment: Moment, number: str, files: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the output of the workflow's one block, with the signed URLs that Skyvern renews inside of it."""
    extracted = invoice(moment.seq)
    block = {
        "task_id": f"tsk_{number}",
        "status": status,
        "extracted_information": extracted,
        "failure_reason": None,
        "errors": [],
        "failure_category": None,
        "downloaded_files": files["files"],
        "downloaded_file_urls": files["file_urls"],
        "downloaded_file_artifact_ids": [file["artifact_id"] for file in files["files"]] or None,
        "task_screenshots": files["screenshots"],
        "workflow_screenshots": files["screenshots"],
    }
    return {"download_invoice_output": block, "extracted_information": [extracted]}


def _attempts(moment: Moment, status: str, attempt: int, next_attempt: str | None) -> list[dict[str, Any]]:
    """Return the attempts so far. Those before the last one failed and were retried."""
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
