"""`runhook keys create|list|rotate|revoke`: the keys with which upstream apps call the submit API."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from handlers.support import timestamps
from handlers.support.duration import parse_duration
from receiver.api.actions import keys as actions
from receiver.api.actions.keys import CREATE_KEY, REVOKE_KEYS, ROTATE_KEY
from receiver.api.keys import LIST_KEYS, KeyRow
from receiver.api.service import Actor
from receiver.cli.api_options import named_options
from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.ledger_access import open_ledger
from receiver.cli.listing import list_command
from receiver.cli.options import Json, load_config
from receiver.cli.output import clean, out, print_json, show_time, show_when
from receiver.config.settings import SECRET_FILE, Settings
from receiver.domain import api_key
from receiver.errors import Conflict, Invalid, NotFound, UsageError

app = typer.Typer(no_args_is_help=True)


def _seconds(text: str) -> float:
    """Return the seconds of an option such as 30d. Raises BadParameter."""
    try:
        return float(str(parse_duration(text)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


_Expires = Annotated[
    float | None,
    typer.Option(
        "--expires", "--expires-in", metavar="TIME", parser=_seconds, help="Refuse the key after so long: 30d."
    ),
]


def _state(row: Mapping[str, Any]) -> str:
    """Return what has become of a key, or will."""
    if row["revoked_at"]:
        return f"revoked {show_when(row['revoked_at'])}"
    replaced = f", replaced by {row['replaced_by']}" if row["replaced_by"] else ""
    if not row["expires_at"]:
        return "in use"
    return f"{'expired' if row['expired'] else 'until'} {show_time(row['expires_at'])}{replaced}"


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
    expires: _Expires = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, this once."""
    scopes = [part.strip() for each in scope or api_key.SCOPES for part in each.split(",") if part.strip()]
    asked = {"name": name, "scopes": scopes, "source": source, "rate": rate, "expires_in": expires}
    with named_options({"expires_in": expires}):
        wanted = CREATE_KEY.validated(asked)
    made = _create_here(client, wanted) if isinstance(client, LocalClient) else client.call(CREATE_KEY, wanted)
    _print_new(made, as_json=as_json)


def _print_new(made: actions.NewKey, *, as_json: bool, more: str = "") -> None:
    key = made.row
    if as_json:
        print_json({**key.model_dump(mode="json"), "key": made.key})
        return
    whose = "all sources" if key.source == api_key.ALL_SOURCES else f"source {key.source}"
    until = f" until {timestamps.iso(key.expires_at)}" if key.expires_at is not None else ""
    out().print(f"{made.key}\n\nThis is shown once. {clean(key.name)} may {', '.join(key.scopes)} for {whose}{until}.")
    out().print(more or f"Take it away with: runhook keys revoke {key.id}")


def _create_here(client: LocalClient, wanted: actions.NewKeyParameters) -> actions.NewKey:
    """Create a key in this machine's ledger, which is made, and the master secret too, if there is none."""
    settings, loaded = load_config(client.config, client.data)
    try:
        actions.check_key(settings, loaded, wanted)
        with open_ledger(settings, tell=True, make=True) as ledger:  # first: of the wrong folder, no secret is made
            _master(settings)
            key, whole = actions.make_key(settings, loaded, ledger, Actor.local(), wanted)
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
    LIST_KEYS,
    {
        "id": "id",
        "name": "name",
        "key": lambda row: f"{row['hint']}…",
        "scopes": lambda row: ",".join(row["scopes"]),
        "source": "source",
        "rate": "rate",
        "created": lambda row: show_when(row["created_at"]),
        "last used": lambda row: show_when(row["used_at"]),
        "state": _state,
    },
    "There are no such keys.",
    doc="List the keys, the oldest first.",
    nothing="There are no keys. Make one with: runhook keys create NAME",
)
app.command("list")(list_keys)


@app.command()
@with_client
def rotate(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id as `list` shows it.")],
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="TIME", parser=_seconds, help="How long the old one still works; 1d."),
    ] = None,
    expires: _Expires = None,
    as_json: Json = False,
) -> None:
    """Give a key a successor, printed this once; the old one works for a while.

    What was submitted with the old one is signed with the old one.
    """
    client.tell = True
    asked = {"key": name, "expires_in": expires, **({} if grace is None else {"grace": grace})}
    with named_options(asked, {"key": name}):
        wanted = ROTATE_KEY.validated(asked)
    try:
        made = client.call(ROTATE_KEY, wanted)
    except (NotFound, Invalid, Conflict) as problem:
        raise UsageError(clean(problem.message)) from None
    ends = "" if made.old.expires_at is None else timestamps.iso(made.old.expires_at)
    _print_new(made, as_json=as_json, more=f"The old one, {made.old.hint}…, works until {ends}.")


@app.command()
@with_client
def revoke(client: Client, ids: Annotated[list[str], typer.Argument(help="Ids as `list` shows them.")]) -> None:
    """Revoke keys. They are refused within 5 seconds."""
    client.tell = True
    try:
        count = client.call(REVOKE_KEYS, REVOKE_KEYS.validated({"ids": ids})).count
    except NotFound as problem:
        raise UsageError(clean(problem.message)) from None
    out().print(f"{count} revoked.")
