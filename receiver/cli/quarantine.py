"""`runhook quarantine`: requests that failed the signature check, stored on the receiver's host.

On this machine it works without a ledger, which then has no record of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from receiver.api import quarantine as actions
from receiver.api.endpoint import Endpoint
from receiver.api.quarantine import (
    DROP_QUARANTINE,
    LIST_QUARANTINE,
    VERIFY_QUARANTINE,
    QuarantineRow,
    QuarantineSelection,
)
from receiver.cli.client import Client, LocalClient, rows_of
from receiver.cli.ledger_access import audited_here
from receiver.cli.lists import parse_columns
from receiver.cli.options import ListJson, Output, chosen_form, load_config, new_app
from receiver.cli.output import Form, clean, out, print_rows
from receiver.cli.parameters import with_client
from receiver.config.loader import load_without_secrets
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted, UsageError
from receiver.inbox.writer import InboxUnavailable
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

app = new_app()

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of requests.")]
_EMPTY = "the quarantine is empty"


@app.command("list")
@with_client
def list_(client: Client, output: Output = None, as_json: ListJson = False) -> None:
    """List requests in quarantine, oldest first."""
    form = chosen_form(output, as_json)
    if isinstance(client, LocalClient):
        config = load_without_secrets(client.settings.config, client.settings.environ)
        rows = [QuarantineRow.of(each) for each in _store(client.settings, config).list()]
    else:
        rows = list(rows_of(client, LIST_QUARANTINE, LIST_QUARANTINE.validated({}), sys.maxsize))
    columns = parse_columns("id source received=received_at bytes=size signature")
    print_rows((each.model_dump() for each in rows), columns, _EMPTY, form)


@app.command()
@with_client
def verify(client: Client, ids: Ids = None, output: Output = None, as_json: ListJson = False) -> None:
    """Check signatures again with the current secrets, and accept authentic requests. Exits with 1 if none is."""
    form = chosen_form(output, as_json)
    if isinstance(client, LocalClient):
        verdicts = _verify_here(*load_config(client.config, client.data), ids)
        rows = [{**QuarantineRow.of(refused).model_dump(), "verdict": verdict} for refused, verdict in verdicts]
        count, authentic = len(verdicts), len(actions.authentic_of(verdicts))
    else:
        found = client.call(VERIFY_QUARANTINE, _selection(client, VERIFY_QUARANTINE, ids))
        rows = [{**each.request.model_dump(), "verdict": each.verdict} for each in found.items]
        count, authentic = found.count, found.authentic
    accepted = {"verdict": lambda row: "accepted" if row["verdict"] == actions.AUTHENTIC else row["verdict"]}
    print_rows(rows, {**parse_columns("id source"), **accepted}, _EMPTY, form)
    if count and form is Form.TABLE:
        out().print(f"{authentic} accepted, {count - authentic} still in quarantine.")
    if count and not authentic:
        raise typer.Exit(1)


def _verify_here(settings: Settings, config: Config, ids: Sequence[str] | None) -> list[tuple[QuarantinedRequest, str]]:
    """Check requests, accept the authentic ones, and return the verdicts. Raises NotStarted."""
    store = _store(settings, config)
    verdicts = actions.check(config, store, _chosen(store, ids))
    if verdicts:
        with audited_here(settings, actions.VERIFY, {"ids": ids} if ids else {}) as outcome:
            try:
                actions.let_in(settings, config, store, actions.authentic_of(verdicts), outcome)
            except InboxUnavailable as error:
                outcome.detail = f"Redis does not accept events ({error})"
                raise NotStarted(f"{outcome.detail}; the others stay in quarantine") from None
    return verdicts


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
    if isinstance(client, LocalClient):
        settings, config = load_config(client.config, client.data)
        store = _store(settings, config)
        chosen = _chosen(store, ids)
        with audited_here(settings, actions.DROP, {"ids": ids} if ids else {}) as outcome:
            store.remove(chosen)
            outcome.count = count = len(chosen)
    else:
        count = client.call(DROP_QUARANTINE, _selection(client, DROP_QUARANTINE, ids)).count
    out().print(f"{count} dropped.")


def _selection(
    client: Client, endpoint: Endpoint[QuarantineSelection, Any], ids: Sequence[str] | None
) -> QuarantineSelection:
    """Return the selection of `ids`, or of all requests that are there now and no others."""
    if ids:
        return endpoint.validated({"ids": ids})
    until = time.time()
    count = client.call(endpoint, endpoint.validated({"dry_run": True, "until": until})).count
    return endpoint.validated({"expect": count, "until": until})


def _store(settings: Settings, config: Config) -> Quarantine:
    if not settings.data.is_dir():  # else a command in a wrong folder would find nothing
        raise NotStarted(f"data directory {settings.data} not found: set --data or RUNHOOK_DATA")
    return Quarantine(settings.data / "quarantine", config.quarantine.max_count, config.quarantine.max_bytes)


def _chosen(store: Quarantine, ids: Sequence[str] | None) -> list[QuarantinedRequest]:
    there = store.list()
    if missing := sorted(set(ids or ()) - {each.id for each in there}):
        raise UsageError(f"not in quarantine: {', '.join(clean(each, 60) for each in missing)}")
    return [each for each in there if not ids or each.id in ids]
