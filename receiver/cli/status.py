"""`runhook status`: problems with their fixes, then processes, servers and sinks; `runhook doctor`: what it checks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import typer
from rich.text import Text

from handlers.support.wording import size
from receiver.api.status import GET_DOCTOR, GET_STATUS, FindingRow, Status, finding_row, status_of
from receiver.checks.registry import examine
from receiver.checks.servers import show_drain
from receiver.checks.survey import survey
from receiver.cli.client import Client, LocalClient
from receiver.cli.options import Json, Output, chosen_form
from receiver.cli.output import Form, clean, out, print_json, print_rows, print_table, show_counts
from receiver.cli.parameters import with_client
from receiver.domain.counting import counted
from receiver.domain.durations import ago
from receiver.domain.liveness import deliver
from receiver.errors import RunhookError
from receiver.ledger.stats import COUNT_LIMIT

# The state of a sink that is neither paused nor removed, and whose breaker is closed; the console has the same word.
READY: Final = "ready"
NO_WORKER: Final = "no worker"
_FINDING: Final = tuple(FindingRow.model_fields)


@with_client
def status(client: Client, as_json: Json = False) -> None:
    """Show problems with their fixes, then processes, servers and sinks. Exits with 1 if there is a problem.

    It changes nothing. On this machine it works while Redis or the ledger are unavailable.
    """
    if isinstance(client, LocalClient):
        found = status_of(survey(client.settings))
    else:
        found = client.call(GET_STATUS, GET_STATUS.validated({}))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_status(found, time.time())
    if not found.ok:
        raise typer.Exit(RunhookError.exit_code)


def _print_status(found: Status, now: float) -> None:
    if all(problem.note for problem in found.problems):
        out().print(Text("No problems found.", style="green"))
    for problem in found.problems:
        mark = Text("note: ", "yellow") if problem.note else Text("WRONG: ", "red")
        _print_finding(mark, problem.what, problem.todo)
    out().print("")
    head = ["process", "state", "host", "pid", "version", "config", "heartbeat"]
    print_table(head, _processes(found), "no process is running")
    out().print("")
    print_table(["what", "state", "details"], _stores(found, now), "")
    ledger = found.ledger
    sent = {sink for sink in ledger.last_sent_at if deliver(sink) in found.expected}
    sinks = sorted({*ledger.deliveries, *ledger.orphans, *ledger.rates, *sent, *(lane.sink for lane in ledger.lanes)})
    if sinks:
        out().print("")
        print_table(
            ["sink", "state", "deliveries", "last sent", "oldest due", "why"],
            [_sink(found, each, now) for each in sinks],
            "",
        )


def _processes(found: Status) -> list[list[Any]]:
    """Return rows of running and stuck processes, and for each expected one that is not running its newest state."""
    rows: list[list[Any]] = []
    for role in dict.fromkeys([*found.expected, *(each.part for each in found.parts)]):
        theirs = [each for each in found.parts if each.part == role]
        shown = [each for each in theirs if each.state in ("running", "stuck")]
        if not shown and role in found.expected:
            shown = sorted(theirs, key=lambda each: each.beat_age)[:1]
            rows += [] if shown else [[role, "missing", *[""] * 5]]
        rows += [
            [each.part, each.state, each.host, each.pid, each.version, each.config, f"{ago(each.beat_age)} ago"]
            for each in shown
        ]
    return rows


def _stores(found: Status, now: float) -> list[list[str]]:
    redis, ledger, disk = found.redis, found.ledger, found.disk
    inbox = redis["inbox"]
    newest = (
        "no event yet" if ledger.newest_event_at is None else f"newest event {ago(now - ledger.newest_event_at)} ago"
    )
    waiting = f"{counted(inbox['entries'], 'event', 'events')}, {size(inbox['size'])}"
    most = redis["max_events"]
    limit = _of_config(None) if most is None else f"{most:,} events, {size(redis['max_bytes'])}"
    if drains := show_drain(inbox["entries"], inbox["rate"]):
        limit += f"; {drains}"
    spooled = counted(disk["spool_events"], "event", "events")
    index, promise = "up to date", f"{redis['durability']}; {redis['url']}"
    if ledger.unindexed_since is not None:
        index = f"{ledger.unindexed} changes, {ago(now - ledger.unindexed_since)} behind"
    return [
        ["Redis", _state(redis["trouble"], redis["down_since"], now), redis["trouble"] or promise],
        ["ledger", _state(ledger.trouble, ledger.down_since, now), ledger.trouble or f"{newest}; {ledger.url}"],
        ["search", "unknown" if ledger.trouble else index, ""],
        ["inbox", "unknown" if redis["trouble"] else waiting, inbox["trouble"] or f"of {limit}"],
        ["spool", f"{spooled}, {size(disk['spool_bytes'])}", f"of {_of_config(disk['spool_limit'])}, on this machine"],
        ["quarantine", str(disk["quarantine"]), "on this machine"],
        ["disk", "unknown" if disk["free"] is None else f"{size(disk['free'])} free", disk["directory"]],
        ["config", "invalid" if found.config.problems else "valid", f"{found.config.file} {found.config.hash}"],
    ]


def _state(trouble: str, since: float | None, now: float) -> str:
    duration = f" for {ago(now - since)}" if since else ""
    return f"down{duration}" if trouble else "up"


def _of_config(count: int | None) -> str:
    return "the configured limit (the config cannot be read)" if count is None else size(count)


def _sink(found: Status, sink: str, now: float) -> list[str]:
    lane = next((each for each in found.ledger.lanes if each.lane == sink), None)
    served = any(each.part == deliver(sink) and each.state == "running" for each in found.parts)
    state = lane_state(lane.model_dump() if lane else {}, now, served)
    if sink in found.ledger.orphans:
        state = "removed from the config"
    due = found.ledger.oldest_due_at.get(sink)
    why = lane.reason if lane and lane.breaker != "closed" else ""
    counts, rate = found.ledger.deliveries.get(sink, {}), found.ledger.rates.get(sink, 0.0)
    pace = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
    drained = show_drained(counts, found.ledger.drained_in.get(sink))
    open_ones = "; ".join(filter(None, [show_counts(counts, COUNT_LIMIT), f"{pace} sent/s" if rate else "", drained]))
    moments = ("" if at is None else f"{ago(now - at)} ago" for at in (found.ledger.last_sent_at.get(sink), due))
    return [sink, state, open_ones, *moments, why]


def show_drained(counts: Mapping[str, int], seconds: float | None) -> str:
    """Return when the backlog of a sink is sent at its present rate; "" without an estimate."""
    least = "at least " if COUNT_LIMIT in counts.values() else ""
    return f"drained in {least}{ago(seconds)} at this rate" if seconds else ""


def lane_state(lane: Mapping[str, Any], now: float, served: bool | None) -> str:
    """Return whether a sink is paused, its breaker open, or no worker serves it.

    `lane`: the members of a row of a lane or a sink; {} if neither is the case. `served`: None if that is unknown.
    """
    states = [NO_WORKER] if served is False else []
    if lane.get("paused"):
        states.append("paused" + (f" for {ago(now - at)}" if (at := lane["paused_at"]) else ""))
    if (breaker := lane.get("breaker", "closed")) != "closed":
        since = f" for {ago(now - at)}" if (at := lane["opened_at"]) else ""
        at = lane["until" if "until" in lane else "probe_at"]
        states.append(f"breaker {breaker}{since}, next probe {f'in {ago(at - now)}' if at and at > now else 'due'}")
    return "; ".join(states) or READY


@with_client
def doctor(client: Client, output: Output = None, as_json: Json = False) -> None:
    """Check all dependencies and suggest fixes. Exits with 1 if there is a fault.

    Besides what status reports, it checks Redis and the ledger with their versions and clocks, hosts, disk, PUBLIC_URL
    as Skyvern sees it, secrets against the quarantine, and the credentials of each sink. It sends nothing to a sink and
    changes nothing. Of a remote service, its receiver runs the checks.
    """
    form = chosen_form(output, as_json)
    faults = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal faults
        for row in _findings(client):
            faults += not row.ok and not row.note
            yield {name: getattr(row, name) for name in _FINDING}

    if form is Form.TABLE:
        for row in rows():  # one by one, as they come
            mark = Text("note  ", "yellow") if row["note"] else Text("WRONG ", "red")
            mark = Text("ok    ", "green") if row["ok"] else mark
            _print_finding(mark, f"{row['check']}: {row['what']}", row["todo"])
    else:
        print_rows(rows(), {}, "", form, names=_FINDING)
    if faults:
        raise typer.Exit(RunhookError.exit_code)


def _print_finding(mark: Text, what: str, todo: str) -> None:
    out().print(mark.append(clean(what), style=""), soft_wrap=True)
    if todo:
        out().print(Text(f"      {clean(todo)}"), soft_wrap=True)


def _findings(client: Client) -> Iterator[FindingRow]:
    if isinstance(client, LocalClient):
        yield from map(finding_row, examine(client.settings))
        return
    found = client.call(GET_DOCTOR, GET_DOCTOR.validated({}))
    yield from found.items
    if not found.complete:
        what = "not all checks ended within the time limit of a call"
        yield FindingRow(check="doctor", ok=False, note=True, what=what, todo="run `runhook doctor` on its host")
