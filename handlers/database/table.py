"""The table's standard columns: names, types, and how values of several events are merged. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

# One of text, integer, number, boolean, timestamp and json.
Kind = str

# How long a value is kept: while its event is the newest, per attempt and status, per attempt, always.
Scope = Literal["event", "result", "attempt", "run"]

# Which of two values in a scope wins: the newest, the newest that is not {} or [], the one with most items.
Prefers = Literal["newest", "filled", "longest"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. A null never overwrites a value in its scope; see merge.py."""

    name: str
    kind: Kind
    scope: Scope = "event"
    prefers: Prefers = "newest"


# Provenance of values from earlier events; null while all values come from one event.
MERGED_FROM: Final = Column("merged_from", "json")

# Run ids are unique only within a source. The id comes first, so that the key also serves lookups by id alone.
SOURCE: Final = "source"
RUN_KEY: Final = ("run_id", SOURCE)
EVENT_KEY: Final = ("event_id",)

STANDARD: Final[tuple[Column, ...]] = (
    Column("run_id", "text"),
    Column("source", "text"),
    Column("run_type", "text"),
    Column("status", "text"),
    Column("original_status", "text"),
    Column("attempt", "integer"),
    Column("retry_pending", "boolean"),
    Column("failure_reason", "text", "result"),
    Column("output", "json", "result", "filled"),
    Column("errors", "json", "result", "longest"),
    Column("summary", "text", "result"),
    Column("title", "text", "run"),
    Column("prompt", "text", "run"),
    Column("url", "text", "run"),
    Column("parameters", "json", "run", "filled"),
    Column("workflow_id", "text", "run"),
    Column("workflow_title", "text", "run"),
    Column("workflow_run_id", "text", "run"),
    Column("retried_from", "text", "run"),
    Column("retried_by", "text", "run"),
    Column("step_count", "integer", "attempt"),
    Column("app_url", "text", "run"),
    Column("recording_url", "text", "attempt"),
    Column("screenshot_urls", "json", "attempt", "longest"),
    Column("downloaded_files", "json", "attempt", "longest"),
    Column("created_at", "timestamp", "run"),
    Column("modified_at", "timestamp"),
    Column("queued_at", "timestamp", "run"),
    Column("started_at", "timestamp", "attempt"),
    Column("finished_at", "timestamp", "result"),
    Column("labels", "json", "run", "filled"),
    Column("links", "json", "result", "longest"),
    Column("event_id", "text"),
    Column("via", "text"),
    Column("is_test", "boolean"),
    Column("received_at", "timestamp"),
    Column("delivered_at", "timestamp"),
    MERGED_FROM,
)

# Required in every table: they identify a row and order its events.
REQUIRED: Final = frozenset({*RUN_KEY, "attempt", "status", "retry_pending", "modified_at", "received_at", *EVENT_KEY})

# An operator's column overrides any other standard column of its name.
RESERVED: Final = REQUIRED | {MERGED_FROM.name}
