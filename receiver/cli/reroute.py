"""`runhook reroute`: today's rules on old events."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from receiver.api.actions.audited import audited
from receiver.api.service import Actor
from receiver.cli.filters import check_filter, require_live_sink
from receiver.cli.ledger_access import open_ledger, read_ledger
from receiver.cli.options import (
    ConfigFile,
    DataDirectory,
    Form,
    Limit,
    ListJson,
    Output,
    RunId,
    Since,
    SourceName,
    Statuses,
    Until,
    Yes,
    chosen_form,
    confirm,
    load_config,
    parse_time_range,
)
from receiver.cli.output import clean, print_rows, short_id
from receiver.cli.profiles import here_only
from receiver.cli.progress import ProgressLine
from receiver.errors import UsageError
from receiver.ledger.filters import LIMIT, Filter


@here_only
def reroute(
    since: Since = "",
    until: Until = "",
    run: RunId = "",
    source: SourceName = "",
    status: Statuses = None,
    sink: Annotated[str, typer.Option("--sink", help="Only what this sink would get.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    limit: Limit = LIMIT,
    output: Output = None,
    as_json: ListJson = False,
    yes: Yes = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Apply today's rules to old events: list what each would reach, and send what is new.

    A sink that has a result already, however its delivery ended, gets none of it again: `runhook replay` does that.
    Callers' own webhooks follow no rule, and are left alone. The table shows the newest events; all of them are routed.
    """
    from receiver import reroute as rerouting

    form = chosen_form(output, as_json)
    if not (since or until or run):
        raise UsageError("say which events: --since 7d, --until TIME or --run ID")
    wanted = Filter(source=source, run_id=run, status=status or (), **parse_time_range(since, until))
    settings, loaded = load_config(config, data)
    if sink:
        require_live_sink(loaded, sink, data, "--sink")
    with open_ledger(settings, tell=True) as ledger:
        found = rerouting.plan(ledger, loaded, wanted, sink)
        if not found.events:
            read_ledger(data, partial(check_filter, wanted=wanted, data=data, empty=True))
        print_rows(
            map(asdict, found.events[:limit] if form is Form.TABLE else found.events),
            {
                "event": lambda row: short_id(row["id"]),
                "run": "run_id",
                "status": "status",
                "what it is": "disposition",
                "reaches": lambda row: ", ".join(row["reaches"]) or "nothing",
                "new": lambda row: ", ".join(row["added"]),
            },
            "no such events",
            form,
        )
        console = typer.echo if form is Form.TABLE else partial(typer.echo, err=True)
        count = len(found.deliveries)
        console(_summary(len(found.events), Counter(each.sink for each in found.deliveries), found.left))
        for route, failures in sorted(found.failures.items()):
            console(f"the rule of route {clean(route, 60)} could not be evaluated on {failures} of them")
        if dry_run or not count:
            return
        confirm(count, f"Make {count} deliveries?", yes=yes)
        asked = {"source": source, "run_id": run, "status": status or [], "since": since, "until": until, "sink": sink}
        selects = {name: value for name, value in asked.items() if value}
        auditing = audited(ledger, Actor.local(), "reroute", selects, source=source)
        with auditing as told, ProgressLine("deliveries", count) as progress:
            for number in rerouting.apply(ledger, found):
                told.count += number
                progress.show(told.count)
        made = told.count
        console(f"{made} deliveries are made; the clock wakes their sinks within a second")


def _summary(events: int, new: Counter[str], left: int) -> str:
    """Return what the plan says, in one sentence."""
    sinks = ", ".join(f"{clean(name, 60)} {count}" for name, count in sorted(new.items()))
    more = f"; {left} events of runs that have gone on since are left out" if left else ""
    return f"{events} events: {sum(new.values())} new deliveries" + (f" ({sinks})" if sinks else "") + more
