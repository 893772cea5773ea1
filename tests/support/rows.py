"""Rows of the ledger's tables with defaults, for tests that write them past the code that records."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def run_row(source: str, run_id: str, at: float, **fields: Any) -> Row:
    """Return a run that changed last `at`."""
    return {"source": source, "run_id": run_id, "events": 1, "first_seen_at": at, "updated_at": at, **fields}


def event_row(event_id: str, source: str, run_id: str, at: float, **fields: Any) -> Row:
    """Return an event that was recorded `at`."""
    texts = dict.fromkeys(("run_type", "status", "outcome", "statement", "extent", "problem", "submission_id"), "")
    flags = {"retry_pending": False, "final": True, "output_null": False, "unrouted": False}
    times = {"received_at": at, "recorded_at": at}
    more = {"id": event_id, "source": source, "run_id": run_id, "via": "webhook", "attempt": 1, "disposition": "new"}
    return {**texts, **flags, **times, **more, "body": b"{}", **fields}


def delivery_row(delivery_id: str, event: Row, sink: str, at: float, **fields: Any) -> Row:
    """Return a delivery of an event, made `at`."""
    of_event = {"event_id": event["id"], "source": event["source"], "run_id": event["run_id"]}
    times = {"due_at": 0.0, "created_at": at, "updated_at": at}
    return {"id": delivery_id, **of_event, "sink": sink, "lane": sink, "reason": "", **times, **fields}


def submission_row(submission_id: str, source: str, at: float, **fields: Any) -> Row:
    """Return an accepted submission, made `at`."""
    of_call = {"key_id": "key", "call": "tasks", "request_hash": "h", "state": "accepted"}
    return {"id": submission_id, "source": source, **of_call, "created_at": at, "updated_at": at, **fields}


def poll_row(source: str, run_id: str, at: float, due_at: float, **fields: Any) -> Row:
    """Return the poll of a run, or of a submission without one, made `at`."""
    times = {"due_at": due_at, "planned_at": due_at, "created_at": at, "updated_at": at}
    return {"source": source, "run_id": run_id, **times, **fields}


def attempt_row(delivery_id: str, number: int, **fields: Any) -> Row:
    """Return a refused attempt."""
    ended = {"outcome": "refused", "reason": "no", "started_at": 1.0, "ended_at": 2.0, "worker": "w"}
    return {"delivery_id": delivery_id, "number": number, **ended, **fields}
