"""`runhook explain`: which routes match an event or the events of a run, and why."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import typer

from receiver.api.events import GET_EVENT, GET_EVENT_BODY
from receiver.api.routes import EXPLAIN, LIST_ROUTES
from receiver.api.rows import EventRow
from receiver.api.runs import GET_RUN
from receiver.cli.check import print_trial
from receiver.cli.client import Client
from receiver.cli.completion import completer
from receiver.cli.options import Json, SourceName, check_id
from receiver.cli.output import print_json
from receiver.cli.parameters import with_client
from receiver.errors import RunhookError, UsageError


@with_client
def explain(
    client: Client,
    identifier: Annotated[str, typer.Argument(metavar="EVENT|RUN", help="Id.", autocompletion=completer("run"))],
    sink: Annotated[
        str, typer.Option("--sink", metavar="NAME", help="Only its routes.", autocompletion=completer("sink"))
    ] = "",
    source: SourceName = "",
    as_json: Json = False,
) -> None:
    """Explain which of the current routes match an event, or each event of a run, and why.

    Runhook's own route `caller`, which sends to callers' webhooks, is not in the list.
    """
    check_id(identifier)
    if identifier.startswith("evt_"):
        events = [client.call(GET_EVENT, GET_EVENT.validated({"event_id": identifier, "source": source})).event]
    else:
        events = client.call(GET_RUN, GET_RUN.validated({"run_id": identifier, "source": source})).events
    routes = client.call(LIST_ROUTES, LIST_ROUTES.validated({})).items
    leading = {each.name for each in routes if sink in ("", *(target.sink for target in each.to))}
    if sink and not leading:
        raise UsageError(f"--sink {sink}: no route leads to it")
    trials = [_explained(client, each, leading) for each in events]
    if as_json:
        print_json(trials)
        return
    for trial in trials:
        print_trial(trial, sink)
        if not trial["routes"] and not trial["problem"]:
            typer.echo("an earlier route stops before these routes are reached")


def _explained(client: Client, event: EventRow, leading: Collection[str]) -> dict[str, Any]:
    """Return what the current routes do with an event, as what it was recorded; only `leading` routes."""
    parameters = {"event_id": event.id, "source": event.source}
    body = client.call(GET_EVENT_BODY, GET_EVENT_BODY.validated(parameters)).content()
    if not body:
        raise RunhookError(f"{event.id} has no body, so no route can match: {event.problem}")
    labels: dict[str, str] = {}
    if event.run_id:
        run = client.call(GET_RUN, GET_RUN.validated({"run_id": event.run_id, "source": event.source})).run
        labels = run.labels
    asked = {"raw": body.decode(errors="replace"), "source": event.source, "labels": labels, "via": event.via}
    disposition = "" if event.disposition == "unreadable" else event.disposition
    found = client.call(EXPLAIN, EXPLAIN.validated({**asked, "disposition": disposition})).model_dump()
    found["routes"] = [each for each in found["routes"] if each["route"] in leading]
    found["deliveries"] = [each for each in found["deliveries"] if each["route"] in leading]
    return {"body": event.id, **found}
