"""`runhook status`: what is wrong, and what to do; then the state of each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.text import Text

from receiver.api.status import GET_STATUS, ProblemRow, Status, status_of
from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.options import Json
from receiver.cli.output import clean, out, print_json, print_table
from receiver.domain.counting import counted
from receiver.domain.parts import PartSeen
from receiver.errors import RunhookError
from receiver.status.problem import ago, amount, probe_time, size
from receiver.status.report import StatusReport
from receiver.status.survey import survey


@with_client
def status(client: Client, as_json: Json = False) -> None:
    """Show what is wrong and what to do about it, then each part, server and store. Ends with 1 when something is.

    Works while Redis, the ledger or both are away, and changes nothing. Of a remote service it shows what is wrong, and
    the parts.
    """
    if isinstance(client, LocalClient):
        report = survey(client.settings)  # which asks what can be asked while the ledger is away
        told = status_of(report)
    else:
        report, told = None, client.call(GET_STATUS, GET_STATUS.validated({}))
    if as_json:
        print_json(told.model_dump(mode="json"))
    else:
        _print_problems(told.problems)
        if report is None:
            _print_remote(told)
        else:
            _print_tables(report)
    if not told.ok:
        raise typer.Exit(RunhookError.exit_code)


def _print_problems(problems: Sequence[ProblemRow]) -> None:
    wrong = [problem for problem in problems if not problem.note]
    notes = [problem for problem in problems if problem.note]
    if not wrong:
        out().print(Text("All is well.", style="green"))
    for title, style, listed in (("WRONG", "red", wrong), ("worth a look", "yellow", notes)):
        for problem in listed:
            line = Text(f"{title}: ", style=style).append(clean(problem.what), style="")
            out().print(line, soft_wrap=True)
            out().print(Text(f"    {clean(problem.todo)}"), soft_wrap=True)
    out().print("")


def _print_remote(told: Status) -> None:
    rows = [
        [each.part, each.state, each.host, each.pid, each.version, each.config, f"{ago(each.beat_age)} ago"]
        for each in told.parts
    ]
    print_table(["part", "state", "host", "process", "version", "config", "beat"], rows, "no part is alive")


def _print_tables(report: StatusReport) -> None:
    print_table(["part", "state", "host", "process", "version", "config", "up", "beat", "more"], _parts(report), "")
    out().print("")
    print_table(["what", "state", "more"], _stores(report), "")
    if report.sinks or report.ledger.orphans:
        out().print("")
        print_table(["sink", "state", "deliveries", "oldest due", "why"], _sinks(report), "")


def _parts(report: StatusReport) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for part in report.expected:
        theirs = [seen for seen in report.parts if seen.beat.part == part]
        shown = [seen for seen in theirs if seen.alive] or theirs[:1]
        rows += [_part(seen, report.now) for seen in [*shown, *(each for each in theirs if each.state == "stuck")]]
        if not theirs:
            away = report.redis.trouble and report.ledger.trouble
            rows.append([part, "not known" if away else "missing", "", "", "", "", "", "", ""])
    others = {seen.beat.part for seen in report.parts if seen.alive} - set(report.expected)
    rows += [_part(seen, report.now) for seen in report.parts if seen.alive and seen.beat.part in others]
    return rows


def _part(seen: PartSeen, now: float) -> list[Any]:
    beat, details = seen.beat, seen.beat.details
    more = []
    if store := details.get("store"):
        more.append(f"events go to {'Redis' if store == 'redis' else 'the spool'}")
    if details.get("spool_events"):
        more.append(f"{counted(details['spool_events'], 'event', 'events')} in its spool")
    up = ago(now - beat.started_at) if seen.state in ("running", "stuck") else ""
    return [
        beat.part,
        seen.state,
        beat.host,
        beat.pid,
        beat.version,
        beat.config,
        up,
        f"{ago(seen.age)} ago",
        "; ".join(more),
    ]


def _stores(report: StatusReport) -> list[list[str]]:
    redis, ledger, disk, inbox = report.redis, report.ledger, report.disk, report.redis.inbox
    oldest = f", the oldest {ago(inbox.oldest)} old" if inbox.oldest is not None else ""
    known = not redis.trouble
    newest = (
        "no event yet" if ledger.newest_event is None else f"newest event {ago(report.now - ledger.newest_event)} ago"
    )
    free = "not known" if disk.free is None else f"{size(disk.free)} free"
    return [
        ["Redis", "away" if redis.trouble else "up", redis.trouble or f"{redis.durability}; {redis.url}"],
        ["ledger", "away" if ledger.trouble else "up", ledger.trouble or f"{newest}; {ledger.url}"],
        ["search", *_search(report)],
        [
            "inbox",
            str(inbox.entries) if known else "not known",
            inbox.trouble or (f"{inbox.pending} at a dispatcher{oldest}; {size(inbox.size)}" if known else ""),
        ],
        ["spool", size(disk.spool_bytes), f"of {_of_config(disk.spool_limit)}, on this machine"],
        ["quarantine", str(disk.quarantine), "on this machine"],
        ["disk", free, f"{disk.directory}; {_of_config(disk.reserve)} are kept free"],
        ["config", "wrong" if report.config_problems else "right", f"{report.config_file} {report.config_hash}"],
    ]


def _search(report: StatusReport) -> list[str]:
    """Return whether a search finds all runs."""
    search = report.ledger.search
    if report.ledger.trouble:
        return ["not known", ""]
    behind = search.behind(report.now)
    if behind < 1:
        return ["up to date", ""]
    return ["indexing", f"{counted(search.unindexed, 'change', 'changes')}, {ago(behind)} behind"]


def _of_config(count: int | None) -> str:
    return "what the config says (it can't be read)" if count is None else size(count)


def _sinks(report: StatusReport) -> list[list[str]]:
    rows = []
    for sink in [*report.sinks, *report.ledger.orphans]:
        counts = {state: count for (name, state), count in report.ledger.counts.items() if name == sink}
        lane = next((lane for lane in report.ledger.lanes if lane.lane == sink), None)
        state = "" if report.ledger.trouble else "open for traffic"
        if sink in report.ledger.orphans:
            state = "not in the config"
        elif lane and lane.paused:
            state = f"paused{f' for {ago(report.now - lane.paused_at)}' if lane.paused_at else ''}"
        elif lane and lane.breaker != "closed":
            since = f" for {ago(report.now - lane.opened_at)}" if lane.opened_at else ""
            state = f"breaker {lane.breaker}{since}, next probe {probe_time(lane, report.now)}"
        due = report.ledger.oldest_due.get(sink)
        why = lane.reason if lane and lane.breaker != "closed" else ""
        shown = ", ".join(f"{amount(count)} {each}" for each, count in sorted(counts.items()))
        rows.append([sink, state, shown, "" if due is None else f"{ago(report.now - due)} ago", why])
    return rows
