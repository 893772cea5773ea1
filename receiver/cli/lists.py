"""`runhook runs`, `runhook events` and `runhook deliveries`: what the ledger knows, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from receiver.cli import _output
from receiver.config import parse_duration
from receiver.errors import NotStarted, UsageError
from receiver.ledger import Connection, Ledger, LedgerUnavailable, queries
from receiver.ledger.migrate import ensure_schema
from receiver.settings import Settings

T = TypeVar("T")

Data = Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="At most so many rows.")]
RunId = Annotated[str, typer.Option("--run", help="Only this run.")]
Source = Annotated[str, typer.Option("--source", help="Only this source.")]
Status = Annotated[list[str] | None, typer.Option("--status", help="Only runs that ended so; may be repeated.")]
Since = Annotated[str, typer.Option("--since", help="Only what happened in this time, such as 15m, 2h or 7d.")]


def ask(data: Path | None, question: Callable[[Connection], T]) -> T:
    """Put a question to the ledger. Raises NotStarted in one line when there is none to ask."""
    return _with_ledger(data, lambda ledger: ledger.read(question))


def tell(data: Path | None, change: Callable[[Connection], T]) -> T:
    """Change something in the ledger. Raises NotStarted in one line when that can't be done now."""
    return _with_ledger(data, lambda ledger: ledger.write(change))


def _with_ledger(data: Path | None, work: Callable[[Ledger], T]) -> T:
    ledger = Ledger(Settings.from_env(data=data).database_url)
    try:
        ensure_schema(ledger)
        return work(ledger)
    except LedgerUnavailable as error:
        raise NotStarted(f"the ledger can't be used: {error}") from None
    finally:
        ledger.close()


def moment(ago: str) -> float | None:
    """The time that was `ago` ("15m"), in seconds since the epoch; None for "". Raises UsageError."""
    if not ago:
        return None
    try:
        seconds = parse_duration(ago)
    except ValueError as error:
        raise UsageError(f"--since {ago}: {error}") from None
    return time.time() - float(str(seconds))


def runs(
    data: Data = None,
    source: Source = "",
    run: RunId = "",
    status: Status = None,
    since: Since = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the runs that events have told of, the one that changed last first."""
    wanted = queries.Filter(source=source, run_id=run, status=status or (), since=moment(since), limit=limit)
    found = ask(data, lambda connection: queries.list_runs(connection, wanted))
    if as_json:
        _output.print_json([_output.with_iso_times(row) for row in found])
        return
    _output.print_table(
        "",
        ["run", "type", "status", "attempt", "events", "deliveries", "changed", "why it failed"],
        [
            (
                row["run_id"],
                row["run_type"],
                row["outcome"],
                row["attempt"],
                row["events"],
                ", ".join(f"{count} {state}" for state, count in sorted(row["deliveries"].items())),
                _output.when(row["updated_at"]),
                _output.clean(row["failure_reason"], 60),
            )
            for row in found
        ],
        "no runs yet: send one with `runhook trigger`",
    )


def events(
    data: Data = None,
    source: Source = "",
    run: RunId = "",
    status: Status = None,
    since: Since = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the events, the newest first, with what each one was: news, interim, repeat, superseded or unreadable."""
    wanted = queries.Filter(source=source, run_id=run, status=status or (), since=moment(since), limit=limit)
    found = ask(data, lambda connection: queries.list_events(connection, wanted))
    if as_json:
        _output.print_json([_output.with_iso_times(row) for row in found])
        return
    _output.print_table(
        "",
        ["event", "run", "status", "via", "what it is", "received"],
        [
            (
                _output.short(row["id"]),
                row["run_id"],
                row["outcome"],
                row["via"],
                what_it_is(row),
                _output.when(row["received_at"]),
            )
            for row in found
        ],
        "no events yet: send one with `runhook trigger`",
    )


def what_it_is(event: dict[str, Any]) -> str:
    """The event's disposition in words."""
    if event["disposition"] == "unreadable":
        return f"unreadable: {event['problem']}"
    if event["repeat_of"]:
        return f"repeat of {_output.short(event['repeat_of'])}"
    unrouted = ", unrouted" if event["unrouted"] else ""
    return str(event["disposition"]) + unrouted + (f" ({event['problem']})" if event["problem"] else "")


def deliveries(
    data: Data = None,
    source: Source = "",
    run: RunId = "",
    event: Annotated[str, typer.Option("--event", help="Only this event.")] = "",
    sink: Annotated[str, typer.Option("--sink", help="Only this sink.")] = "",
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only in this state (delivered, dead, …); may be repeated.")
    ] = None,
    status: Status = None,
    since: Since = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the deliveries with their receipts, the one that changed last first."""
    wanted = queries.Filter(
        source=source,
        run_id=run,
        event_id=event,
        sink=sink,
        state=state or (),
        status=status or (),
        since=moment(since),
        limit=limit,
    )
    found = ask(data, lambda connection: queries.list_deliveries(connection, wanted))
    if as_json:
        _output.print_json([_output.with_iso_times(row) for row in found])
        return
    _output.print_table(
        "",
        ["event", "run", "status", "sink", "state", "tries", "receipt or reason"],
        [
            (
                _output.short(row["event_id"]),
                row["run_id"],
                row["status"],
                row["sink"],
                row["state"],
                row["attempts"],
                _outcome(row),
            )
            for row in found
        ],
        "no deliveries",
    )


def _outcome(row: dict[str, Any]) -> str:
    if row["state"] == "delivered" and row["receipt"]:
        receipt = row["receipt"]
        return _output.clean(_output.near(receipt.get("id", "")), 120) + (
            f" ({receipt['note']})" if receipt.get("note") else ""
        )
    due = f"; next try {_output.when(row['due_at'])}" if row["state"] == "waiting" else ""
    return _output.clean(row["reason"], 100) + due
