"""`runhook reroute`: the current routes, applied to old events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import typer

from receiver.api.reroutes import REROUTE, ReroutedRow, RerouteParameters, RerouteResult
from receiver.cli.client import Client
from receiver.cli.completion import completer
from receiver.cli.options import Limit, ListJson, Output, Yes, can_ask, chosen_form, confirm
from receiver.cli.output import Form, clean, parse_columns, print_rows, progress
from receiver.cli.parameters import check_times, given_options, named_options, with_filter
from receiver.domain.counting import counted
from receiver.errors import UsageError
from receiver.ledger.lists.filters import LIMIT


@with_filter(RerouteParameters, without=("into", "ignore_routes", "dry_run", "after"))
def reroute(
    client: Client,
    asked: dict[str, Any],
    sink: Annotated[
        str | None,
        typer.Option("--sink", metavar="NAME", help="Only deliveries to this sink.", autocompletion=completer("sink")),
    ] = None,
    ignore_routes: Annotated[
        bool, typer.Option("--ignore-routes", help="Give the sink all results, regardless of the routes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List only.")] = False,
    limit: Limit = LIMIT,
    output: Output = None,
    as_json: ListJson = False,
    yes: Yes = False,
) -> None:
    """Apply the current routes to old events: list where each would go, and create missing deliveries.

    A sink that already has a result gets it again only by `runhook replay`. Callers' own webhooks are not affected.
    If it is interrupted, run it again: it creates only what is still missing.
    The table shows the newest events, but all are routed. A remote service applies its own routes.
    """
    form = chosen_form(output, as_json)
    into = given_options({"sink": sink}).get("sink", "")
    if not asked.keys() & {"since", "until", "run"}:
        raise UsageError("nothing selected: pass --since 7d, --until TIME or --run ID")
    if ignore_routes and not into:
        raise UsageError("--ignore-routes: name the sink with --sink")
    client.announce = True
    with named_options(asked):
        parameters = REROUTE.validated({**asked, "into": into, "ignore_routes": ignore_routes})
        check_times(parameters, asked)
        reroute_events(client, parameters, form, limit, dry_run=dry_run, yes=yes)


def reroute_events(
    client: Client, parameters: RerouteParameters, form: Form, limit: int, *, dry_run: bool, yes: bool
) -> None:
    """Print where the routes would send old events, and create what is missing unless it is a dry run."""
    # A person sees the plan before the question; the routes are then applied again, since the ledger has changed.
    plan, created, asks = _Plan(), 0, can_ask(yes=yes)
    for found in _calls(client, parameters.model_copy(update={"dry_run": dry_run or asks})):
        plan.add(found)
        created += found.made
        parameters = parameters.model_copy(update={"until": found.until})
    events = plan.events[:limit] if form is Form.TABLE else plan.events
    columns = parse_columns("event=id run=run_id status disposition reaches new=added")
    print_rows((each.model_dump(mode="json") for each in events), columns, "no events found", form)
    say = typer.echo if form is Form.TABLE else partial(typer.echo, err=True)
    say(plan.summary())
    for route, failures in sorted(plan.failures.items()):
        say(f"route {clean(route, 60)} could not be evaluated for {counted(failures, 'event', 'events')}")
    count = plan.new.total()
    if dry_run:
        return
    if asks:
        if count:
            confirm(count, f"Create {counted(count, 'delivery', 'deliveries')}?", yes=yes)
        with progress("deliveries", count) as show:
            for found in _calls(client, parameters):
                created += found.made
                show(created)
    if count:
        say(f"{counted(created, 'delivery', 'deliveries')} created; sending starts within a second")


class _Plan:
    """What all calls returned. `new`: deliveries by sink; a sink gets one of the events with the same result."""

    def __init__(self) -> None:
        self.events: list[ReroutedRow] = []
        self.new: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.left = 0
        self._reached: set[tuple[str, str, str, str]] = set()

    def add(self, found: RerouteResult) -> None:
        """Add what a call returned."""
        for each in found.events:
            result = (each.source, each.run_id, each.result)
            added = tuple(sink for sink in each.added if (*result, sink) not in self._reached)
            self._reached.update((*result, sink) for sink in added)
            self.new.update(added)
            self.events.append(each.model_copy(update={"added": added}))
        self.failures.update(found.failures)
        self.left += found.left

    def summary(self) -> str:
        """Return the plan in one sentence."""
        sinks = ", ".join(f"{clean(name, 60)} {count}" for name, count in sorted(self.new.items()))
        new = counted(self.new.total(), "new delivery", "new deliveries") + (f" ({sinks})" if sinks else "")
        skipped = f"; skipped: {self.left} of runs that have changed since" if self.left else ""
        return f"{counted(len(self.events), 'event', 'events')}: {new}{skipped}"


def _calls(client: Client, parameters: RerouteParameters) -> Iterator[RerouteResult]:
    """Make calls until all events were routed. Raises RunhookError."""
    after: str | None = ""
    while after is not None:
        found = client.call(REROUTE, parameters.model_copy(update={"after": after}))
        parameters, after = parameters.model_copy(update={"until": found.until}), found.next
        yield found
