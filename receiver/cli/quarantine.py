"""`runhook quarantine`: requests that failed the signature check, stored on the receiver's host."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from receiver.api.endpoint import Endpoint
from receiver.api.quarantine import (
    AUTHENTIC,
    DROP_QUARANTINE,
    LIST_QUARANTINE,
    VERIFY_QUARANTINE,
    QuarantineSelection,
)
from receiver.cli.client import Client, LocalClient, rows_of
from receiver.cli.options import ListJson, Output, chosen_form, new_app
from receiver.cli.output import Form, clean, out, parse_columns, print_rows
from receiver.cli.parameters import with_client
from receiver.errors import NotFound, NotStarted, UsageError

app = new_app()

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of requests.")]
_EMPTY = "the quarantine is empty"


@app.command("list")
@with_client
def list_(client: Client, output: Output = None, as_json: ListJson = False) -> None:
    """List requests in quarantine, oldest first."""
    form = chosen_form(output, as_json)
    _require_data(client)
    rows = rows_of(client, LIST_QUARANTINE, LIST_QUARANTINE.validated({}), sys.maxsize)
    columns = parse_columns("id source run_(unverified)=run_id identical received=received_at bytes=size signature")
    print_rows((each.model_dump() for each in rows), columns, _EMPTY, form)


@app.command()
@with_client
def verify(client: Client, ids: Ids = None, output: Output = None, as_json: ListJson = False) -> None:
    """Check signatures again with the current secrets, and accept authentic requests. Exits with 1 if none is."""
    form = chosen_form(output, as_json)
    found = _call(client, VERIFY_QUARANTINE, ids)
    rows = ({**each.request.model_dump(), "verdict": each.verdict} for each in found.items)
    accepted = {"verdict": lambda row: "accepted" if row["verdict"] == AUTHENTIC else row["verdict"]}
    print_rows(rows, {**parse_columns("id source"), **accepted}, _EMPTY, form)
    if found.count and form is Form.TABLE:
        out().print(f"{found.authentic} accepted, {found.count - found.authentic} still in quarantine.")
    if found.count and not found.authentic:
        raise typer.Exit(1)


@app.command()
@with_client
def drop(
    client: Client,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all requests.")] = False,
) -> None:
    """Delete requests from quarantine."""
    if bool(ids) == everything:
        raise UsageError("nothing selected: pass ids, or --all")
    out().print(f"{_call(client, DROP_QUARANTINE, ids).count} dropped.")


def _call(client: Client, endpoint: Endpoint[QuarantineSelection, Any], ids: Sequence[str] | None) -> Any:
    """Call an action on `ids`, or on all requests that are there now. Raises UsageError and NotStarted."""
    _require_data(client)
    selection: dict[str, Any] = {"ids": ids}
    if not ids:
        until = time.time()
        counted = client.call(endpoint, endpoint.validated({"dry_run": True, "until": until}))
        selection = {"expect": counted.count, "until": until}
    try:
        return client.call(endpoint, endpoint.validated(selection))
    except NotFound as problem:
        raise UsageError(clean(problem.message)) from None


def _require_data(client: Client) -> None:
    """Raise NotStarted without the data directory: a command in a wrong folder would find nothing."""
    client.create = True
    if isinstance(client, LocalClient) and not client.settings.data.is_dir():
        raise NotStarted(f"data directory {client.settings.data} not found: set --data or RUNHOOK_DATA")
