"""The table's standard columns: names, kinds, and whether a null overwrites them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# One of text, integer, number, boolean, timestamp and json.
Kind = str


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `keep_on_null`: see columns.py."""

    name: str
    kind: Kind
    keep_on_null: bool = False


STANDARD: tuple[Column, ...] = (
    Column("run_id", "text"),
    Column("source", "text"),
    Column("run_type", "text"),
    Column("status", "text"),
    Column("original_status", "text"),
    Column("attempt", "integer"),
    Column("retry_pending", "boolean"),
    Column("failure_reason", "text"),
    Column("output", "json", keep_on_null=True),
    Column("errors", "json"),
    Column("title", "text", keep_on_null=True),
    Column("workflow_id", "text", keep_on_null=True),
    Column("step_count", "integer", keep_on_null=True),
    Column("app_url", "text", keep_on_null=True),
    Column("recording_url", "text", keep_on_null=True),
    Column("created_at", "timestamp", keep_on_null=True),
    Column("modified_at", "timestamp"),
    Column("queued_at", "timestamp", keep_on_null=True),
    Column("started_at", "timestamp", keep_on_null=True),
    Column("finished_at", "timestamp", keep_on_null=True),
    Column("labels", "json", keep_on_null=True),
    Column("links", "json", keep_on_null=True),
    Column("event_id", "text"),
    Column("via", "text"),
    Column("is_test", "boolean"),
    Column("received_at", "timestamp"),
    Column("delivered_at", "timestamp"),
)

RESERVED = frozenset(column.name for column in STANDARD)
