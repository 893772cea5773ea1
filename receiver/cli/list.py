"""`runhook runs`, `events`, `deliveries` and `submissions`: what the ledger knows, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import typer

from handlers.support.timestamps import epoch
from receiver.cli import output
from receiver.config.fields import parse_duration
from receiver.config.settings import Settings
from receiver.domain.delivery import DeliveryState
from receiver.domain.submission import SubmissionState
from receiver.errors import NotStarted, UsageError
from receiver.ledger import Connection, Ledger, LedgerUnavailable, queries
from receiver.ledger.migrate import ensure_schema

SUBMISSION_STATES = [state.value for state in SubmissionState]

T = TypeVar("T")

Data = Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="At most so many rows.")]
RunId = Annotated[str, typer.Option("--run", help="Only this run.")]
Source = Annotated[str, typer.Option("--source", help="Only this source.")]
Status = Annotated[list[str] | None, typer.Option("--status", help="Only runs that ended so; may be repeated.")]
Since = Annotated[
    str,
    typer.Option("--since", help="Only what happened since then: 15m, 2h or 7d ago, or a moment (2026-11-24T09:30Z)."),
]
Until = Annotated[str, typer.Option("--until", help="Only what happened before then; as --since.")]


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


def moment(text: str, option: str = "--since") -> float | None:
    """Seconds since the epoch of `text`: a time ago ("15m"), or a moment ("2026-11-24", "2026-11-24 09:30Z"), which is
    in UTC, as lists show it, unless it says otherwise. None for "". Raises UsageError.
    """
    if not text:
        return None
    with suppress(ValueError):
        return time.time() - float(str(parse_duration(text)))
    found = epoch(text.strip())
    if found is None:
        raise UsageError(
            f"{option} {text}: must be a time ago such as 15m, 2h or 7d, or a moment such as 2026-11-24 or "
            "2026-11-24T09:30Z"
        )
    return found


class Span(TypedDict):
    """A time range as Filter and Selection take it: seconds since the epoch, the first included, the last not."""

    since: float | None
    until: float | None


def span(since: str, until: str) -> Span:
    """The time range that was asked for. Raises UsageError."""
    first, last = moment(since), moment(until, "--until")
    if first is not None and last is not None and last <= first:
        raise UsageError(f"--until {until}: must be later than --since {since}")
    return Span(since=first, until=last)


def runs(
    data: Data = None,
    source: Source = "",
    run: RunId = "",
    status: Status = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the runs that events have told of, the one that changed last first."""
    wanted = queries.Filter(source=source, run_id=run, status=status or (), **span(since, until), limit=limit)
    found = ask(data, lambda connection: queries.list_runs(connection, wanted))
    if as_json:
        output.print_json([output.with_iso_times(row) for row in found])
        return
    output.print_table(
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
                output.when(row["updated_at"]),
                output.clean(row["failure_reason"], 60),
            )
            for row in found
        ],
        _nothing("runs", wanted),
    )


def events(
    data: Data = None,
    source: Source = "",
    run: RunId = "",
    status: Status = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the events, the newest first, with what each one was: new, interim, repeat, superseded or unreadable."""
    wanted = queries.Filter(source=source, run_id=run, status=status or (), **span(since, until), limit=limit)
    found = ask(data, lambda connection: queries.list_events(connection, wanted))
    if as_json:
        output.print_json([output.with_iso_times(row) for row in found])
        return
    output.print_table(
        "",
        ["event", "run", "status", "via", "what it is", "received"],
        [
            (
                output.short(row["id"]),
                row["run_id"],
                row["outcome"],
                row["via"],
                what_it_is(row),
                output.when(row["received_at"]),
            )
            for row in found
        ],
        _nothing("events", wanted),
    )


def _nothing(what: str, wanted: queries.Filter) -> str:
    """What is said instead of an empty list."""
    everything = wanted == queries.Filter(limit=wanted.limit)
    return f"no {what} yet: send one with `runhook trigger`" if everything else f"no such {what}"


def what_it_is(event: dict[str, Any]) -> str:
    """The event's disposition in words."""
    if event["disposition"] == "unreadable":
        return f"unreadable: {event['problem']}"
    if event["repeat_of"]:
        return f"repeat of {output.short(event['repeat_of'])}"
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
    until: Until = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the deliveries with their receipts, the one that changed last first."""
    if unknown := sorted(set(state or ()) - set(DeliveryState)):
        raise UsageError(f"--state {unknown[0]}: a delivery is {', '.join(DeliveryState)}")
    wanted = queries.Filter(
        source=source,
        run_id=run,
        event_id=event,
        sink=sink,
        state=state or (),
        status=status or (),
        **span(since, until),
        limit=limit,
    )
    found = ask(data, lambda connection: queries.list_deliveries(connection, wanted))
    if as_json:
        output.print_json([output.with_iso_times(row) for row in found])
        return
    output.print_table(
        "",
        ["event", "run", "status", "sink", "state", "tries", "receipt or reason"],
        [
            (
                output.short(row["event_id"]),
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
        return output.clean(output.near(receipt.get("id", "")), 120) + (
            f" ({receipt['note']})" if receipt.get("note") else ""
        )
    due = f"; next try {output.when(row['due_at'])}" if row["state"] == "waiting" else ""
    return output.clean(row["reason"], 100) + due


def submissions(
    data: Data = None,
    source: Source = "",
    run: RunId = "",
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help=f"Only in this state ({', '.join(SUBMISSION_STATES)}); may be repeated."),
    ] = None,
    status: Status = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only with this label; may be repeated.")
    ] = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the runs that were submitted here, the newest first, and when a missing result is looked for next."""
    if unknown := sorted(set(state or ()) - set(SUBMISSION_STATES)):
        raise UsageError(f"--state {unknown[0]}: a submission is {', '.join(SUBMISSION_STATES)}")
    labels = dict(_pair(each) for each in label or ())
    wanted = queries.Filter(
        source=source, run_id=run, state=state or (), status=status or (), **span(since, until), limit=limit
    )
    found = ask(data, lambda connection: queries.list_submissions(connection, wanted, labels))
    if as_json:
        output.print_json([output.with_iso_times(row) for row in found])
        return
    now = time.time()
    output.print_table(
        "",
        ["submission", "state", "run", "status", "call", "age", "looked for", "labels", "why"],
        [
            (
                output.short(row["id"]),
                row["state"],
                row["run_id"],
                row["status"],
                row["call"],
                age(now - row["created_at"]),
                _due(row, now),
                " ".join(f"{name}={value}" for name, value in sorted(row["labels"].items())),
                output.clean(row["reason"], 100),
            )
            for row in found
        ],
        "no submissions: make a key with `runhook keys create`, and submit a run with it",
    )


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise UsageError(f"--label {text}: write NAME=VALUE")
    return name, value


def _due(row: dict[str, Any], now: float) -> str:
    """When it is looked for next, if it is, and how often that was in vain."""
    tries = f" after {row['polls']} looks" if row["polls"] else ""
    if row["due_at"] is None:
        return ""
    return ("now" if row["due_at"] <= now else f"in {age(row['due_at'] - now)}") + tries


def age(seconds: float) -> str:
    """A span of time as people say it: one number and one unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"
