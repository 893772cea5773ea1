"""The table's standard columns, as they are declared: names, kinds, and what a null does to them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

Kind = str
"""text, integer, number, boolean, timestamp or json."""


@dataclass(frozen=True, slots=True)
class Col:
    """One column: its name, its kind, and whether a null keeps what was there (see columns.py)."""

    name: str
    kind: Kind
    keep: bool = False


STANDARD: tuple[Col, ...] = (
    Col("run_id", "text"),
    Col("source", "text"),
    Col("run_type", "text"),
    Col("status", "text"),
    Col("original_status", "text"),
    Col("attempt", "integer"),
    Col("retry_pending", "boolean"),
    Col("failure_reason", "text"),
    Col("output", "json", keep=True),
    Col("errors", "json"),
    Col("title", "text", keep=True),
    Col("workflow_id", "text", keep=True),
    Col("step_count", "integer", keep=True),
    Col("app_url", "text", keep=True),
    Col("recording_url", "text", keep=True),
    Col("created_at", "timestamp", keep=True),
    Col("modified_at", "timestamp"),
    Col("queued_at", "timestamp", keep=True),
    Col("started_at", "timestamp", keep=True),
    Col("finished_at", "timestamp", keep=True),
    Col("labels", "json", keep=True),
    Col("links", "json", keep=True),
    Col("event_id", "text"),
    Col("via", "text"),
    Col("is_test", "boolean"),
    Col("received_at", "timestamp"),
    Col("delivered_at", "timestamp"),
)

RESERVED = frozenset(col.name for col in STANDARD)
