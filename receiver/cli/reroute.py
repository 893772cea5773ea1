"""`runhook reroute`: today's rules on old events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import typer

from receiver.api.actions.reroutes import REROUTE, ReroutedRow, RerouteParameters, RerouteResult
from receiver.cli.api_options import api_options, check_times, given_options, named_options
from receiver.cli.client import Client, with_client
from receiver.cli.options import Form, Limit, ListJson, Output, Yes, chosen_form, confirm, may_ask
from receiver.cli.output import Ids, clean, print_rows
from receiver.cli.progress import ProgressLine
from receiver.domain.counting import counted
from receiver.errors import UsageError
from receiver.ledger.filters import LIMIT


@with_client
@api_options(RerouteParameters, without=("into", "dry_run", "after"))
def reroute(
    client: Client,
    asked: dict[str, Any],
    sink: Annotated[str | None, typer.Option("--sink", help="Only what this sink would get.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    limit: Limit = LIMIT,
    output: Output = None,
    as_json: ListJson = False,
    yes: Yes = False,
) -> None:
    """Apply today's rules to old events: list what each would reach, and send what is new.

    A sink that has a result already, however its delivery ended, gets none of it again: `runhook replay` does that.
    Callers' own webhooks follow no rule, and are left alone. The table shows the newest events; all of them are routed.
    With --url the rules are those of the service.
    """
    form = chosen_form(output, as_json)
    into = given_options({"sink": sink}).get("sink", "")
    if not asked.keys() & {"since", "until", "run"}:
        raise UsageError("say which events: --since 7d, --until TIME or --run ID")
    client.tell = True
    with named_options(asked):
        wanted = REROUTE.validated({**asked, "into": into})
        check_times(wanted, asked)
        _reroute(client, wanted, form, limit, dry_run=dry_run, yes=yes)


def _reroute(client: Client, wanted: RerouteParameters, form: Form, limit: int, *, dry_run: bool, yes: bool) -> None:
    # Whoever is asked sees the plan first. What is made then is decided anew, since the ledger goes on meanwhile: the
    # rules are asked a second time, about the stretches of events that lack something and no others.
    found, made, asks = _Plan(), 0, may_ask(yes=yes)
    lacking: list[_Stretch] = []
    for stretch, told in _calls(client, wanted.model_copy(update={"dry_run": dry_run or asks})):
        if found.add(told):
            lacking.append(stretch)
        made += told.made
        wanted = wanted.model_copy(update={"until": told.until})
    print_rows(
        (each.model_dump(mode="json") for each in (found.events[:limit] if form is Form.TABLE else found.events)),
        {
            "event": Ids("id"),
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
    console(_summary(found))
    for route, failures in sorted(found.failures.items()):
        console(f"the rule of route {clean(route, 60)} could not be evaluated on {failures} of them")
    count = found.new.total()
    if dry_run or not count:
        return
    if asks:
        confirm(count, f"Make {counted(count, 'delivery', 'deliveries')}?", yes=yes)
        with ProgressLine("deliveries", count) as progress:
            for stretch in lacking:
                for _, told in _calls(client, wanted, stretch):
                    made += told.made
                    progress.show(made)
    console(f"{counted(made, 'delivery is', 'deliveries are')} made; the clock wakes the sinks within a second")


class _Plan:
    """What all calls have told. `new`: deliveries by sink; of the events that tell one result a sink gets one."""

    def __init__(self) -> None:
        self.events: list[ReroutedRow] = []
        self.new: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.left = 0
        self._reached: set[tuple[str, str, str, str]] = set()

    def add(self, told: RerouteResult) -> int:
        """Add what a call has told. Returns how many new deliveries that are."""
        before = self.new.total()
        for each in told.events:
            result = (each.source, each.run_id, each.result)
            added = tuple(sink for sink in each.added if (*result, sink) not in self._reached)
            self._reached.update((*result, sink) for sink in added)
            self.new.update(added)
            self.events.append(each.model_copy(update={"added": added}))
        self.failures.update(told.failures)
        self.left += told.left
        return self.new.total() - before


class _Stretch(NamedTuple):
    """The old events that one call was about: those before the place `after`, back to `end`. "", None: from the newest,
    to the oldest."""

    after: str = ""
    end: str | None = None


_WHOLE: Final = _Stretch()


def _calls(
    client: Client, wanted: RerouteParameters, stretch: _Stretch = _WHOLE
) -> Iterator[tuple[_Stretch, RerouteResult]]:
    """Make calls until all events of a stretch were asked about. Raises RunhookError."""
    after: str | None = stretch.after
    while after is not None and (stretch.end is None or not after or int(after) > int(stretch.end)):
        begun = after
        update: dict[str, Any] = {"after": after}
        told = client.call(REROUTE, wanted.model_copy(update=update))
        wanted, after = wanted.model_copy(update={"until": told.until}), told.next
        yield _Stretch(begun, after), told


def _summary(found: _Plan) -> str:
    """Return what the plan says, in one sentence."""
    sinks = ", ".join(f"{clean(name, 60)} {count}" for name, count in sorted(found.new.items()))
    more = f"; left out: {found.left} of runs that have gone on since" if found.left else ""
    new = counted(found.new.total(), "new delivery", "new deliveries") + (f" ({sinks})" if sinks else "")
    return f"{counted(len(found.events), 'event', 'events')}: {new}{more}"
