"""`runhook quarantine`: requests that failed the signature check, kept on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from receiver.api import quarantine as api_quarantine
from receiver.api.actions import quarantine as actions
from receiver.api.actions.quarantine import DROP_QUARANTINE, VERIFY_QUARANTINE
from receiver.api.endpoint import Endpoint
from receiver.api.quarantine import LIST_QUARANTINE
from receiver.cli.acting import audited_here
from receiver.cli.client import Client, LocalClient, rows_of, with_client
from receiver.cli.options import Form, ListJson, Output, chosen_form, load_config
from receiver.cli.output import clean, out, print_rows, relative_path, show_when
from receiver.config.loader import load_without_secrets
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted, UsageError
from receiver.inbox.writer import InboxUnavailable
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

app = typer.Typer(no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.")]


def _store(settings: Settings, config: Config) -> Quarantine:
    if not settings.data.is_dir():
        raise NotStarted(f"there is no data directory {settings.data}; name the right one with --data or RUNHOOK_DATA")
    return Quarantine(settings.data / "quarantine", config.quarantine.max_count, config.quarantine.max_bytes)


@app.command("list")
@with_client
def list_(client: Client, output: Output = None, as_json: ListJson = False) -> None:
    """List what is in quarantine, the oldest first; of a remote service what its receiver's host has."""
    form = chosen_form(output, as_json)
    if isinstance(client, LocalClient):  # which needs no ledger
        settings = Settings.from_env(config=client.config, data=client.data)
        loaded = load_without_secrets(settings.config, settings.environ)
        rows, where = [_row(each) for each in _store(settings, loaded).list()], _where(settings)
    else:
        found = rows_of(client, LIST_QUARANTINE, LIST_QUARANTINE.validated({}), sys.maxsize)
        rows, where = [each.model_dump() for each in found], client.where
    print_rows(
        rows,
        {
            "id": "id",
            "source": "source",
            "received": lambda row: show_when(row["received_at"]),
            "bytes": "size",
            "signature": lambda row: clean(row["signature"], 20),
        },
        f"The quarantine is empty ({where}).",
        form,
    )


def _where(settings: Settings) -> str:
    return relative_path(str(settings.data / "quarantine"))


def _row(refused: QuarantinedRequest) -> dict[str, Any]:
    return api_quarantine.QuarantineRow.of(refused).model_dump()


@app.command()
@with_client
def verify(client: Client, ids: Ids = None, output: Output = None, as_json: ListJson = False) -> None:
    """Check the signatures again with the present secrets, and let the authentic requests in. Ends with 1 for none."""
    form = chosen_form(output, as_json)
    if isinstance(client, LocalClient):
        settings, loaded = load_config(client.config, client.data)
        verdicts, where = _verify_here(settings, loaded, ids), _where(settings)
        rows = [{**_row(refused), "verdict": verdict} for refused, verdict in verdicts]
        count, authentic = len(verdicts), len(actions.authentic_of(verdicts))
    else:
        told = client.call(VERIFY_QUARANTINE, _guarded(client, VERIFY_QUARANTINE, ids))
        rows = [{**each.request.model_dump(), "verdict": each.verdict} for each in told.items]
        count, authentic, where = told.count, told.authentic, client.where
    print_rows(
        rows,
        {
            "id": "id",
            "source": "source",
            "verdict": lambda row: "let in" if row["verdict"] == "authentic" else row["verdict"],
        },
        f"The quarantine is empty ({where}).",
        form,
    )
    if count and form is Form.TABLE:
        out().print(f"{authentic} let in, {count - authentic} stay in quarantine.")
    if count and not authentic:
        raise typer.Exit(1)


def _verify_here(settings: Settings, config: Config, ids: Sequence[str] | None) -> list[tuple[QuarantinedRequest, str]]:
    """Check what is in quarantine here, let in what is authentic, and return the verdicts. Raises NotStarted."""
    store = _store(settings, config)
    verdicts = actions.check(config, store, _chosen(store.list(), ids))
    if verdicts:
        with audited_here(settings, actions.VERIFY, {"ids": ids} if ids else {}) as told:
            try:
                actions.let_in(settings, config, store, actions.authentic_of(verdicts), told)
            except InboxUnavailable as error:
                told.detail = f"Redis takes no events now ({error})"
                raise NotStarted(f"{told.detail}; what was not let in stays in quarantine") from None
    return verdicts


@app.command()
@with_client
def drop(
    client: Client,
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Drop everything.")] = False,
) -> None:
    """Drop requests for good."""
    if bool(ids) == every:
        raise UsageError("name the ids to drop, or --all")
    if not isinstance(client, LocalClient):
        out().print(f"{client.call(DROP_QUARANTINE, _guarded(client, DROP_QUARANTINE, ids)).count} dropped.")
        return
    settings, loaded = load_config(client.config, client.data)
    store = _store(settings, loaded)
    chosen = _chosen(store.list(), ids)
    with audited_here(settings, actions.DROP, {"ids": ids} if ids else {}) as told:
        store.remove(chosen)
        told.count = len(chosen)
    out().print(f"{len(chosen)} dropped.")


def _guarded(
    client: Client, endpoint: Endpoint[actions.QuarantineSelection, Any], ids: Sequence[str] | None
) -> actions.QuarantineSelection:
    """Return the selection of these, or of all that there are now and no others."""
    if ids:
        return endpoint.validated({"ids": ids})
    until = time.time()
    count = client.call(endpoint, endpoint.validated({"dry_run": True, "until": until})).count
    return endpoint.validated({"expect": count, "until": until})


def _chosen(kept: Sequence[QuarantinedRequest], ids: Sequence[str] | None) -> list[QuarantinedRequest]:
    if not ids:
        return list(kept)
    unknown = sorted(set(ids) - {each.id for each in kept})
    if unknown:
        named = ", ".join(clean(each, 60) for each in unknown)
        raise UsageError(f"not in quarantine: {named}; `runhook quarantine list` shows what is")
    return [each for each in kept if each.id in set(ids)]
