"""`runhook keys create|list|revoke`: the keys with which upstream apps call the submit API."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from receiver.api import keys as api_keys
from receiver.api.actions import keys as actions
from receiver.api.keys import KeyRow
from receiver.api.service import Actor
from receiver.cli.client import Client, LocalClient, endpoint_called, with_client
from receiver.cli.ledger_access import open_ledger
from receiver.cli.listing import list_command
from receiver.cli.options import Json, load_config
from receiver.cli.output import clean, out, print_json, show_when
from receiver.config.settings import SECRET_FILE, Settings
from receiver.domain import api_key
from receiver.errors import Invalid, NotFound, UsageError

_CREATE, _REVOKE = (endpoint_called(name, actions.ENDPOINTS) for name in ("create_key", "revoke_keys"))

app = typer.Typer(no_args_is_help=True)


@app.command()
@with_client
def create(
    client: Client,
    name: Annotated[str, typer.Argument(help="What the app is called in lists.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", help="submit, read, operate, view, resubmit; may be repeated. The first three by default."
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--source", help="The source whose API it may use; the only one by default. '*' for all: view and operate."
        ),
    ] = "",
    rate: Annotated[str | None, typer.Option("--rate", help="Most calls in a time, such as 10/s or 100/m.")] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, this once."""
    scopes = [part.strip() for each in scope or api_key.SCOPES for part in each.split(",") if part.strip()]
    if isinstance(client, LocalClient):
        made = _create_here(client, name, scopes, source, rate)
    else:
        made = client.call(_CREATE, _CREATE.validated({"name": name, "scopes": scopes, "source": source, "rate": rate}))
    key = made.row
    if as_json:
        print_json({**key.model_dump(mode="json"), "key": made.key})
        return
    whose = "all sources" if key.source == api_key.ALL_SOURCES else f"source {key.source}"
    out().print(f"{made.key}\n\nThis is shown once. {clean(key.name)} may {', '.join(key.scopes)} for {whose}.")
    out().print(f"Take it away with: runhook keys revoke {key.id}")


def _create_here(client: LocalClient, name: str, scopes: list[str], source: str, rate: str | None) -> actions.NewKey:
    """Create a key in this machine's ledger, which is made, and the master secret too, if there is none."""
    settings, loaded = load_config(client.config, client.data)
    try:
        actions.check_key(settings, loaded, name, scopes, source, rate)
        with open_ledger(settings, tell=True, make=True) as ledger:  # first: of the wrong folder, no secret is made
            _master(settings)
            key, whole = actions.make_key(settings, loaded, ledger, Actor.local(), name, scopes, source, rate)
    except Invalid as problem:
        option = "" if problem.message.startswith("the name") else "--"
        raise UsageError(option + clean(problem.message)) from None
    return actions.NewKey(row=KeyRow.of(key), key=whole)


def _master(settings: Settings) -> str:
    """Return the master secret; a new one, and say so, when there is none. Raises ConfigError."""
    if found := settings.master_secret():
        return found
    made = settings.master_secret(make=True)
    where = (settings.data / SECRET_FILE).absolute()
    sys.stderr.write(f"runhook: there was no RUNHOOK_SECRET: a new one is made: {where}\n")
    return made


list_keys = list_command(
    endpoint_called("list_keys", api_keys.ENDPOINTS),
    {
        "id": "id",
        "name": "name",
        "key": lambda row: f"{row['hint']}…",
        "scopes": lambda row: ",".join(row["scopes"]),
        "source": "source",
        "rate": "rate",
        "created": lambda row: show_when(row["created_at"]),
        "last used": lambda row: show_when(row["used_at"]),
        "state": lambda row: f"revoked {show_when(row['revoked_at'])}" if row["revoked_at"] else "in use",
    },
    "There are no such keys.",
    doc="List the keys, the oldest first.",
    nothing="There are no keys. Make one with: runhook keys create NAME",
)
app.command("list")(list_keys)


@app.command()
@with_client
def revoke(client: Client, ids: Annotated[list[str], typer.Argument(help="Ids as `list` shows them.")]) -> None:
    """Revoke keys. They are refused within 5 seconds."""
    client.tell = True
    try:
        count = client.call(_REVOKE, _REVOKE.validated({"ids": ids})).count
    except NotFound as problem:
        raise UsageError(clean(problem.message)) from None
    out().print(f"{count} revoked.")
