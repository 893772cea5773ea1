"""`runhook runs`, `events`, `deliveries`, `dead`, `attempts` and `submissions`: what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from receiver.api.lists import LIST_ATTEMPTS, LIST_DELIVERIES, LIST_EVENTS, LIST_SUBMISSIONS
from receiver.api.runs import LIST_RUNS
from receiver.cli.commands import COMMANDS
from receiver.cli.listing import list_command
from receiver.cli.names import check_form
from receiver.cli.output import Ids, clean, relative_path, show_counts, show_when
from receiver.domain.delivery import DeliveryState
from receiver.domain.event import short_id

runs = list_command(
    LIST_RUNS,
    {
        "run": "run_id",
        "type": "run_type",
        "status": "outcome",
        "attempt": "attempt",
        "events": "events",
        "deliveries": lambda row: show_counts(row["deliveries"]),
        "changed": lambda row: show_when(row["updated_at"]),
        "why it failed": lambda row: clean(row["failure_reason"], 60),
    },
    "no such runs",
    doc=COMMANDS["runs"].help,
    nothing="no runs yet: send one with `runhook trigger`",
)


def _disposition(event: Mapping[str, Any]) -> str:
    if event["disposition"] == "unreadable":
        return f"unreadable: {event['problem']}"
    if event["repeat_of"]:
        return f"{event['disposition']} of {short_id(event['repeat_of'])}"
    if event["disposition"] == "test":
        return "test webhook, signature right"
    unrouted = ", unrouted" if event["unrouted"] else ""
    return str(event["disposition"]) + unrouted + (f" ({event['problem']})" if event["problem"] else "")


events = list_command(
    LIST_EVENTS,
    {
        "event": Ids("id"),
        "run": "run_id",
        "status": "outcome",
        "via": "via",
        "received": lambda row: show_when(row["received_at"]),
        "what": _disposition,
    },
    "no such events",
    doc=COMMANDS["events"].help,
    nothing="no events yet: send one with `runhook trigger`",
)


def _receipt_or_reason(row: Mapping[str, Any]) -> str:
    if row["state"] == "delivered" and row["receipt"]:
        receipt = row["receipt"]
        note = f" ({receipt['note']})" if receipt.get("note") else ""
        return clean(relative_path(receipt.get("id", "")), 120) + note
    due = f"; next try {show_when(row['due_at'])}" if row["state"] == "waiting" else ""
    return clean(row["reason"], 100) + due


deliveries = list_command(
    LIST_DELIVERIES,
    {
        "event": Ids("event_id"),
        "run": "run_id",
        "status": "status",
        "sink": "sink",
        "state": "state",
        "tries": "attempts",
        "receipt or reason": _receipt_or_reason,
    },
    "no deliveries",
    doc=COMMANDS["deliveries"].help,
)

dead = list_command(
    LIST_DELIVERIES,
    {
        "delivery": Ids("id"),
        "run": "run_id",
        "status": "status",
        "sink": "sink",
        "tries": "attempts",
        "why": "reason",
    },
    "no dead letters",
    doc=COMMANDS["dead"].help,
    fixed={"state": (DeliveryState.DEAD,)},
)


def _of_thing(identifier: str) -> dict[str, Any]:
    """Return the parameter that an id is. Raises UsageError for one cut too short."""
    check_form(identifier)
    if identifier.startswith("dlv_"):
        return {"delivery": identifier}
    return {"event_id" if identifier.startswith("evt_") else "run": identifier}


attempts = list_command(
    LIST_ATTEMPTS,
    {
        "delivery": Ids("delivery_id"),
        "sink": "sink",
        "attempt": "number",
        "outcome": "outcome",
        "began": lambda row: show_when(row["started_at"]),
        "seconds": lambda row: f"{row['ended_at'] - row['started_at']:.3f}",
        "worker": "worker",
        "receipt or reason": lambda row: relative_path(row["receipt"]["id"]) if row["receipt"] else row["reason"],
    },
    "no attempts",
    doc=COMMANDS["attempts"].help,
    argument=(
        Annotated[
            str | None,
            typer.Argument(metavar="DELIVERY|EVENT|RUN", help="Its id: dlv_…, evt_… or a run's. All without one."),
        ],
        _of_thing,
    ),
)


def _next_poll(row: Mapping[str, Any]) -> str:
    """Return when the result is polled next, if it is, and after how many polls without one."""
    if row["due_at"] is None:
        return ""
    polls = f" after {row['polls']} polls" if row["polls"] else ""
    return ("now" if row["due_at"] <= time.time() else show_when(row["due_at"])) + polls


submissions = list_command(
    LIST_SUBMISSIONS,
    {
        "submission": Ids("id"),
        "state": "state",
        "run": "run_id",
        "status": "status",
        "call": "call",
        "submitted": lambda row: show_when(row["created_at"]),
        "next poll": _next_poll,
        "labels": lambda row: " ".join(f"{name}={value}" for name, value in sorted(row["labels"].items())),
        "why": lambda row: clean(row["reason"], 100),
    },
    "no such submissions",
    doc=COMMANDS["submissions"].help,
    nothing="no submissions: make a key with `runhook keys create`, and submit a run with it",
)
