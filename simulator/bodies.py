"""Bodies about a run: of its webhook, by run type, and of the API's answers. Pure.

Members and their order are those of a real server; here the values of a run are put in. `Link` signs the URL of an
artifact for every response, as Skyvern does, inside of output too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from receiver.domain import members
from simulator import keys, run_request
from simulator.artifacts import StoredArtifact
from simulator.runs import TASK_V2, WORKFLOW, SimRun

Link = Callable[[StoredArtifact], str | None]

ORGANIZATION = "o_700000000000000001"
# The agent that a task_v2 runs as.
AGENT_OF_TASK_V2 = "wpid_700000000000000002"


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


def ordered(names: Iterable[str], *values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with these members in this order, null where there is no value."""
    body: dict[str, Any] = dict.fromkeys(names)
    for each in values:
        assert each.keys() <= body.keys(), each.keys() - body.keys()
        body |= each
    return body


def webhook(run: SimRun, link: Link) -> dict[str, Any]:
    """Return the body of the webhook for `run` as it is now."""
    if run.type == WORKFLOW:
        return _times(_workflow(run, link))
    return _times(_task_v2(run, link) if run.type == TASK_V2 else _task_v1(run, link))


def webhook_again(run: SimRun, link: Link) -> dict[str, Any]:
    """Return the body that retry_webhook sends: fewer keys."""
    if run.type == TASK_V2:
        return _times(_common(run, link))
    if run.type == WORKFLOW:
        whole = _workflow(run, link)
        again = {name: whole[name] for name in keys.SENT_AGAIN[members.WORKFLOW]}
        return _times(again | {"step_count": None, "total_steps": None})
    return _times(_task_v1(run, link))


def answer(run: SimRun, link: Link) -> dict[str, Any]:
    """Return the answer to GET /v1/runs/{id}."""
    body = _common(run, link) | _workflow_only(run)
    if run.type == WORKFLOW:
        body |= _attempts(run)
    return _times(body | {"run_request": run_request.polled(run)}, zone="Z" if run.number % 2 else "")


def whole(run: SimRun, link: Link) -> dict[str, Any]:
    """Return what Skyvern's own UI is shown of a run: the webhook's first members, among them all that a poll lacks."""
    body = webhook(run, link)
    echo = run_request.polled(run)
    if run.type not in (WORKFLOW, TASK_V2):
        asked = {"url": echo["url"], "navigation_goal": echo["prompt"], "webhook_callback_url": run.callback}
        body = {"request": asked} | body
    return {name: body[name] for name in keys.DETAILS[members.family(run.type)]}


def first_answer(run: SimRun) -> dict[str, Any]:
    """Return the answer to a submit: the run as it was a moment after its creation."""
    body = _common(run, lambda _: None) | {"downloaded_files": None, "screenshot_urls": None, "step_count": None}
    return _times(body | _workflow_only(run) | {"run_request": run_request.submitted(run)})


def listed(run: SimRun) -> dict[str, Any]:
    """Return one line of GET /v1/runs."""
    same = ("status", "title", "started_at", "finished_at", "created_at", "attempt", "retry_pending", "next_attempt_at")
    own = {
        "task_run_id": "tr_" + run.id.rpartition("_")[2],
        "run_id": run.id,
        "task_run_type": run.type,
        "workflow_permanent_id": run.workflow_id,
        "workflow_deleted": False,
        "script_run": False,
        "trigger_type": run.trigger if run.type == WORKFLOW else None,
    }
    return _times(ordered(keys.LISTED, {name: getattr(run, name) for name in same}, own))


def artifact(stored: StoredArtifact, run: SimRun, url: str | None) -> dict[str, Any]:
    """Return one line of GET /v1/runs/{id}/artifacts."""
    name = stored.name or f"{stored.id}.{stored.content_type.rpartition('/')[2]}"
    values = {
        "created_at": stored.created_at,
        "modified_at": stored.modified_at or stored.created_at,
        "artifact_id": stored.id,
        "artifact_type": stored.type,
        "uri": f"s3://simulated-bucket/{ORGANIZATION}/{run.id}/{name}",
        "checksum": stored.checksum,
        "file_size": stored.size,
        "workflow_run_id": run.id if run.type == WORKFLOW else run.workflow_run_id,
        "task_id": run.id if not (run.type == WORKFLOW or run.workflow_run_id) else None,
        "run_id": run.id,
        "signed_url": url,
        "archived": False,
        "organization_id": ORGANIZATION,
    }
    return _times(ordered(keys.ARTIFACT, values))


def _workflow_only(run: SimRun) -> dict[str, Any]:
    """Return the keys of the API's answer that only a workflow's run has."""
    if run.type != WORKFLOW:
        return {}
    fallback = run.request.get("ai_fallback")
    return {
        "run_with": "agent",
        "ai_fallback": True if fallback is None else fallback,
        "script_id": None,
        "browser_seed_source": "fresh",
        "browser_settings_receipt": None,
    }


def _common(run: SimRun, link: Link) -> dict[str, Any]:
    """Return the 21 keys that every kind of run has in common."""
    recordings = run.of_type("recording")
    same = ("status", "failure_reason", "created_at", "modified_at", "queued_at", "started_at", "finished_at", "errors")
    own = {
        "run_id": run.id,
        "run_type": run.type,
        "output": _linked(run.output, run, link),
        "downloaded_files": [_file(each, link) for each in run.downloads],
        "recording_url": link(recordings[0]) if recordings else None,
        "recording_archived": False,
        "screenshot_urls": _screenshots(run, link),
        "app_url": _app_url(run),
        "step_count": run.step_count if run.finished_at else None,
    }
    return ordered(members.EVERY_POLL, {name: getattr(run, name) for name in same}, own)


def _task_v1(run: SimRun, link: Link) -> dict[str, Any]:
    screenshots = _screenshots(run, link)
    own = {
        "task_id": run.id,
        "extracted_information": _linked(run.output, run, link),
        "action_screenshot_urls": screenshots,
        "screenshot_url": screenshots[0] if screenshots else None,
        "downloaded_file_urls": [link(each) for each in run.downloads] or None,
        "failure_category": _category(run),
        "webhook_failure_reason": run.webhook_failure_reason,
        "max_steps_per_run": run.max_steps,
    }
    return ordered(members.WEBHOOK[members.TASK], _common(run, link), own)


def _task_v2(run: SimRun, link: Link) -> dict[str, Any]:
    own = {
        "task_id": run.id,
        "organization_id": ORGANIZATION,
        "workflow_id": f"w_{run.id.rpartition('_')[2]}",
        "workflow_permanent_id": AGENT_OF_TASK_V2,
        "prompt": run.request.get("prompt"),
        "url": run.request.get("url"),
        "summary": run.summary,
        "totp_verification_url": run.request.get("totp_url"),
        "webhook_callback_url": run.callback,
        "webhook_failure_reason": run.webhook_failure_reason,
        "extracted_information_schema": run.request.get("data_extraction_schema"),
        "failure_category": _category(run),
        "workflow_run_id": run.workflow_run_id,
        "proxy_location": run_request.proxy_location(run),
    }
    same = ("totp_identifier", "error_code_mapping", "extra_http_headers", "cdp_connect_headers", "browser_address")
    own |= {name: run.request.get(name) for name in same}
    return ordered(members.WEBHOOK[members.TASK_V2], _common(run, link), own)


def _workflow(run: SimRun, link: Link) -> dict[str, Any]:
    recordings = [link(each) for each in run.of_type("recording")]
    own = {
        "workflow_id": run.workflow_id,
        "agent_id": run.workflow_id,
        "agent_run_id": run.id,
        "workflow_run_id": run.id,
        "failure_category": _category(run),
        "retried_from_workflow_run_id": run.retried_from,
        "retried_by_workflow_run_id": run.retried_by,
        "proxy_location": run_request.proxy_location(run),
        "webhook_callback_url": run.callback,
        "webhook_failure_reason": run.webhook_failure_reason,
        "totp_verification_url": run.request.get("totp_url"),
        "parameters": run.request.get("parameters") or run.request.get("data") or {},
        "recording_urls": recordings or None,
        "downloaded_file_urls": [link(each) for each in run.downloads] or None,
        "outputs": _linked(run.output, run, link),
        "total_steps": run.step_count,
        "total_cost": 0.25,
        "credits_used": 5,
        "cached_credits_used": 0,
        "workflow_title": run.title,
        "browser_seed_source": "fresh",
        "run_with": "agent",
    }
    same = ("totp_identifier", "extra_http_headers", "cdp_connect_headers", "browser_address")
    own |= {name: run.request.get(name) for name in same} | {"run_request": run_request.sent(run)}
    return ordered(members.WEBHOOK[members.WORKFLOW], _common(run, link), own, _attempts(run))


def _attempts(run: SimRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in ("attempt", "retry_pending", "next_attempt_at", "attempts")}


def _app_url(run: SimRun) -> str:
    """Return the page of the run: that of a task_v2 names the workflow run that it ran as."""
    if run.type == WORKFLOW or run.workflow_run_id:
        return f"{run.base}/runs/{run.workflow_run_id or run.id}"
    return f"{run.base}/tasks/{run.id}"


def _screenshots(run: SimRun, link: Link) -> list[str | None] | None:
    return [link(each) for each in run.of_type("screenshot")] or None


def _file(stored: StoredArtifact, link: Link) -> dict[str, Any]:
    return {
        "url": link(stored) or "",
        "checksum": stored.checksum,
        "filename": stored.name,
        "file_size": stored.size,
        "modified_at": stored.created_at,
        "artifact_id": stored.id,
    }


def _linked(output: Any, run: SimRun, link: Link) -> Any:
    """Return `output` with the signed URLs that Skyvern renews in each block's part of a workflow's output."""
    if run.type != WORKFLOW or not isinstance(output, dict):
        return output
    fresh = {
        "task_screenshots": _screenshots(run, link) or [],
        "downloaded_files": [_file(each, link) for each in run.downloads],
        "downloaded_file_urls": [link(each) for each in run.downloads],
    }
    return {
        name: part | fresh if name.endswith("_output") and isinstance(part, dict) else part
        for name, part in output.items()
    }


def _category(run: SimRun) -> list[dict[str, Any]] | None:
    if run.status != "failed" or run.output is not None:
        return None
    return [{"category": "UNKNOWN", "confidence_float": 0.5, "reasoning": "No keyword match found"}]


def _times(body: Mapping[str, Any], zone: str = "") -> dict[str, Any]:
    """Return `body` with each datetime as the text that Skyvern sends."""
    return {key: _timed(part, zone) for key, part in body.items()}


def _timed(value: Any, zone: str) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds") + zone
    if isinstance(value, dict):
        return {key: _timed(part, zone) for key, part in value.items()}
    if isinstance(value, list):
        return [_timed(part, zone) for part in value]
    return value
