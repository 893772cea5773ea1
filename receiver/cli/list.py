"""`runhook runs`, `events`, `deliveries` and `submissions`: what the ledger holds, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from receiver.api import runs as api_runs
from receiver.cli.client import endpoint_called
from receiver.cli.commands import COMMANDS
from receiver.cli.filters import find_rows
from receiver.cli.listing import list_command
from receiver.cli.options import (
    DataDirectory,
    Labels,
    Limit,
    ListJson,
    Output,
    RunId,
    Since,
    SinkName,
    SourceName,
    Statuses,
    Until,
    chosen_form,
    parse_labels,
    parse_time_range,
)
from receiver.cli.output import clean, print_rows, relative_path, short_id, show_counts, show_duration, show_when
from receiver.domain.delivery import DeliveryState
from receiver.domain.submission import SubmissionState
from receiver.errors import UsageError
from receiver.ledger import queries

SUBMISSION_STATES = [state.value for state in SubmissionState]


runs = list_command(
    endpoint_called("list_runs", api_runs.ENDPOINTS),
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


def events(
    data: DataDirectory = None,
    source: SourceName = "",
    run: RunId = "",
    status: Statuses = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """List the events, the newest first, and what each one was, such as new, repeat, superseded or unreadable."""
    form = chosen_form(output, as_json)
    wanted = queries.Filter(
        source=source, run_id=run, status=status or (), **parse_time_range(since, until), limit=limit
    )
    print_rows(
        find_rows(data, wanted, queries.list_events, form=form),
        {
            "event": lambda row: short_id(row["id"]),
            "run": "run_id",
            "status": "outcome",
            "via": "via",
            "what it is": _disposition,
            "received": lambda row: show_when(row["received_at"]),
        },
        _nothing("events", wanted),
        form,
    )


def _nothing(what: str, wanted: queries.Filter) -> str:
    """Return what is printed in place of an empty list."""
    everything = wanted == queries.Filter(limit=wanted.limit)
    return f"no {what} yet: send one with `runhook trigger`" if everything else f"no such {what}"


def _disposition(event: Mapping[str, Any]) -> str:
    if event["disposition"] == "unreadable":
        return f"unreadable: {event['problem']}"
    if event["repeat_of"]:
        return f"{event['disposition']} of {short_id(event['repeat_of'])}"
    if event["disposition"] == "test":
        return "test webhook, signature right"
    unrouted = ", unrouted" if event["unrouted"] else ""
    return str(event["disposition"]) + unrouted + (f" ({event['problem']})" if event["problem"] else "")


def deliveries(
    data: DataDirectory = None,
    source: SourceName = "",
    run: RunId = "",
    event: Annotated[str, typer.Option("--event", help="Only this event.")] = "",
    sink: SinkName = "",
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only in this state (delivered, dead, …); may be repeated.")
    ] = None,
    status: Statuses = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """List the deliveries with their receipts, the one that changed last first."""
    form = chosen_form(output, as_json)
    if unknown := sorted(set(state or ()) - set(DeliveryState)):
        raise UsageError(f"--state {unknown[0]}: a delivery is {', '.join(DeliveryState)}")
    wanted = queries.Filter(
        source=source,
        run_id=run,
        event_id=event,
        sink=sink,
        state=state or (),
        status=status or (),
        **parse_time_range(since, until),
        limit=limit,
    )
    print_rows(
        find_rows(data, wanted, queries.list_deliveries, form=form),
        {
            "event": lambda row: short_id(row["event_id"]),
            "run": "run_id",
            "status": "status",
            "sink": "sink",
            "state": "state",
            "tries": "attempts",
            "receipt or reason": _receipt_or_reason,
        },
        "no deliveries",
        form,
    )


def _receipt_or_reason(row: Mapping[str, Any]) -> str:
    if row["state"] == "delivered" and row["receipt"]:
        receipt = row["receipt"]
        note = f" ({receipt['note']})" if receipt.get("note") else ""
        return clean(relative_path(receipt.get("id", "")), 120) + note
    due = f"; next try {show_when(row['due_at'])}" if row["state"] == "waiting" else ""
    return clean(row["reason"], 100) + due


def submissions(
    data: DataDirectory = None,
    source: SourceName = "",
    run: RunId = "",
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help=f"Only in this state ({', '.join(SUBMISSION_STATES)}); may be repeated."),
    ] = None,
    status: Statuses = None,
    label: Labels = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """List the runs that were submitted here, the newest first, and when a missing result is polled next."""
    form = chosen_form(output, as_json)
    if unknown := sorted(set(state or ()) - set(SUBMISSION_STATES)):
        raise UsageError(f"--state {unknown[0]}: a submission is {', '.join(SUBMISSION_STATES)}")
    labels = parse_labels(label)
    wanted = queries.Filter(
        source=source, run_id=run, state=state or (), status=status or (), **parse_time_range(since, until), limit=limit
    )
    now = time.time()
    print_rows(
        find_rows(
            data,
            wanted,
            lambda connection, wanted: queries.list_submissions(connection, wanted, labels),
            form=form,
        ),
        {
            "submission": lambda row: short_id(row["id"]),
            "state": "state",
            "run": "run_id",
            "status": "status",
            "call": "call",
            "age": lambda row: show_duration(now - row["created_at"]),
            "next poll": lambda row: _next_poll(row, now),
            "labels": lambda row: " ".join(f"{name}={value}" for name, value in sorted(row["labels"].items())),
            "why": lambda row: clean(row["reason"], 100),
        },
        "no submissions: make a key with `runhook keys create`, and submit a run with it"
        if wanted == queries.Filter(limit=limit) and not labels
        else "no such submissions",
        form,
    )


def _next_poll(row: Mapping[str, Any], now: float) -> str:
    """Return when the result is polled next, if it is, and after how many polls without one."""
    if row["due_at"] is None:
        return ""
    polls = f" after {row['polls']} polls" if row["polls"] else ""
    return ("now" if row["due_at"] <= now else f"in {show_duration(row['due_at'] - now)}") + polls
