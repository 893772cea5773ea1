"""`runhook keys create|list|rotate|revoke`: API keys. `runhook console hash`: a password of the console."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from handlers.support import timestamps
from handlers.support.duration import parse_duration
from receiver.api import keys as actions
from receiver.api.keys import CREATE_KEY, LIST_KEYS, REVOKE_KEYS, ROTATE_KEY
from receiver.cli.client import Client, LocalClient
from receiver.cli.completion import completer
from receiver.cli.lists import list_command
from receiver.cli.options import Json, new_app
from receiver.cli.output import clean, out, print_json, show_time, show_when, warn
from receiver.cli.parameters import named_options, with_client
from receiver.config.settings import SECRET_FILE
from receiver.domain import api_key
from receiver.errors import ConfigError, Conflict, Invalid, NotFound, UsageError

app = new_app()
console_app = new_app()

_SHORTEST: Final = 8  # characters of a password


def _seconds(text: str) -> float:
    """Return the seconds of an option such as 30d. Raises BadParameter."""
    try:
        return float(str(parse_duration(text)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


_Expires = Annotated[
    float | None,
    typer.Option(
        "--expires", "--expires-in", metavar="TIME", parser=_seconds, help="Lifetime of the key, such as 30d."
    ),
]


def _state(row: Mapping[str, Any]) -> str:
    if row["revoked_at"]:
        return f"revoked {show_when(row['revoked_at'])}"
    replaced = f", replaced by {row['replaced_by']}" if row["replaced_by"] else ""
    if not row["expires_at"]:
        return "active"
    return f"{'expired' if row['expired'] else 'until'} {show_time(row['expires_at'])}{replaced}"


@app.command()
@with_client
def create(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the app, for lists.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="submit, read (its runs and results), operate, view (all that this CLI lists), resubmit or erase; "
            "repeatable. Default: the first three.",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="NAME",
            help="Source of the key; '*' for all, with view and operate only. Default: the only source.",
            autocompletion=completer("source"),
        ),
    ] = "",
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="RATE", help="Maximum rate of calls, such as 10/s or 100/m.")
    ] = None,
    expires: _Expires = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it. It is shown only once."""
    scopes = [part.strip() for each in scope or api_key.SCOPES for part in each.split(",") if part.strip()]
    with named_options({"expires_in": expires}):
        parameters = CREATE_KEY.validated(
            {"name": name, "scopes": scopes, "source": source, "rate": rate, "expires_in": expires}
        )
    client.create = client.announce = True
    had_secret = not isinstance(client, LocalClient) or bool(client.settings.master_secret())
    try:
        created = client.call(CREATE_KEY, parameters)
    except Invalid as problem:
        raise UsageError(("" if problem.message.startswith("the name") else "--") + clean(problem.message)) from None
    except Conflict as problem:
        raise ConfigError(problem.message) from None
    if isinstance(client, LocalClient) and not had_secret:
        warn(f"new RUNHOOK_SECRET created: {(client.settings.data / SECRET_FILE).absolute()}")
    _print_new(created, as_json=as_json)


def _print_new(created: actions.NewKey, *, as_json: bool, note: str = "") -> None:
    key = created.row
    if as_json:
        print_json({**key.model_dump(mode="json"), "key": created.key})
        return
    whose = "all sources" if key.source == api_key.ALL_SOURCES else f"source {key.source}"
    until = f" until {timestamps.iso(key.expires_at)}" if key.expires_at is not None else ""
    out().print(
        f"{created.key}\n\nIt is shown only once. {clean(key.name)}: {', '.join(key.scopes)} for {whose}{until}."
    )
    out().print(note or f"To revoke it: runhook keys revoke {key.id}")


list_keys = list_command(
    LIST_KEYS,
    "id name key=hint scopes source rate created=created_at last_used=used_at",
    {"state": _state},
    empty="no keys found; create one with `runhook keys create NAME`",
)
app.command("list")(list_keys)


@app.command()
@with_client
def rotate(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the key.")],
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="TIME", parser=_seconds, help="How long the old key still works. Default: 1d."),
    ] = None,
    expires: _Expires = None,
    as_json: Json = False,
) -> None:
    """Create the successor of a key and print it; the old key still works for a while.

    Webhooks of runs submitted with the old key are signed with the old key.
    """
    client.announce = True
    asked = {"key": name, "expires_in": expires, **({} if grace is None else {"grace": grace})}
    try:
        with named_options(asked, {"key"}):
            created = client.call(ROTATE_KEY, ROTATE_KEY.validated(asked))
    except (NotFound, Invalid, Conflict) as problem:
        raise UsageError(clean(problem.message)) from None
    ends = "" if created.old.expires_at is None else timestamps.iso(created.old.expires_at)
    _print_new(created, as_json=as_json, note=f"The old key, {created.old.hint}…, works until {ends}.")


@app.command()
@with_client
def revoke(client: Client, ids: Annotated[list[str], typer.Argument(metavar="NAME", help="Names or ids.")]) -> None:
    """Revoke keys. They are refused within 5 seconds."""
    client.announce = True
    try:
        count = client.call(REVOKE_KEYS, REVOKE_KEYS.validated({"ids": ids})).count
    except NotFound as problem:
        raise UsageError(clean(problem.message)) from None
    out().print(f"revoked: {', '.join(map(clean, ids))}; refused everywhere within 5 s" if count else "revoked already")


@console_app.callback()
def _console() -> None:
    """Keep `hash` a subcommand."""


@console_app.command("hash")
def hash_() -> None:
    """Read a password from the terminal or standard input and print its hash.

    Use it as `console.users.NAME.password` in the config, or as RUNHOOK_CONSOLE_PASSWORD.
    """
    from receiver.console.passwords import LONGEST, hash_password

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not len(password) >= _SHORTEST or len(password.encode("utf-8", "surrogateescape")) > LONGEST:
        raise UsageError(f"the password must have at least {_SHORTEST} characters and at most {LONGEST} bytes")
    sys.stdout.write(f"{hash_password(password)}\n")
