"""`runhook keys create|list|revoke`: the keys with which upstream apps call the submit API."""

from __future__ import annotations

import secrets
import sys
import time
from typing import Annotated, Any

import typer

from receiver.cli.ledger_access import open_ledger
from receiver.cli.options import ConfigFile, DataDirectory, Json, ListJson, Output, chosen_form, load_config
from receiver.cli.output import clean, out, print_json, print_rows, show_when, with_iso_times
from receiver.config.advice import local_key
from receiver.config.fields import parse_rate
from receiver.config.settings import SECRET_FILE, Settings
from receiver.domain import api_key
from receiver.errors import ConfigError, UsageError
from receiver.ledger import api_keys
from receiver.ledger.api_keys import Key

app = typer.Typer(no_args_is_help=True)

_LONGEST_NAME = 100


@app.command()
def create(
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
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, this once."""
    scopes = [part.strip() for each in scope or api_key.SCOPES for part in each.split(",") if part.strip()]
    unknown = sorted(set(scopes) - set(api_key.ALL_SCOPES))
    if unknown or not scopes:
        raise UsageError(
            f"--scope: {clean(', '.join(unknown), 60)!r} is none; there are {', '.join(api_key.ALL_SCOPES)}"
        )
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"the name must be 1 to {_LONGEST_NAME} printable characters")
    if rate is not None:
        try:
            parse_rate(rate)
        except ValueError as error:
            raise UsageError(f"--rate: {error}") from None
    settings, loaded = load_config(config, data)
    chosen = source or (next(iter(loaded.sources)) if len(loaded.sources) == 1 else "")
    if chosen == api_key.ALL_SOURCES:
        if wrong := sorted(set(scopes) - {api_key.VIEW, api_key.OPERATE}):
            raise UsageError(f"--source '*': a key of all sources can view and operate, but not {', '.join(wrong)}")
    elif chosen not in loaded.sources:
        what = f"--source {clean(source, 60)}: there is no such source" if source else "--source: say which"
        raise UsageError(f"{what}; there are {', '.join(loaded.sources)}")
    elif set(scopes) - {api_key.VIEW} and loaded.sources[chosen].api(settings.skyvern_base_url) is None:
        raise ConfigError(
            local_key(settings)
            or f"{settings.config}: sources.{chosen}: has no api_key, so nothing can be submitted for it"
        )
    with open_ledger(settings, tell=True, make=True) as ledger:  # first: of the wrong folder, no secret is made either
        known, master = ledger.read(api_keys.every), _master(settings)
        key_id = secrets.token_hex(6)
        whole = api_key.derive(master, key_id)
        digest, hint = api_key.digest(whole), api_key.hint(whole)
        key = Key(key_id, name.strip(), digest, hint, frozenset(scopes), chosen, rate, time.time())
        _check_master(known, master, settings)
        ledger.write(lambda connection: api_keys.create(connection, key))
    if as_json:
        print_json({**with_iso_times(_row(key)), "key": whole})
        return
    whose = "all sources" if chosen == api_key.ALL_SOURCES else f"source {chosen}"
    out().print(f"{whole}\n\nThis is shown once. {key.name} may {', '.join(_sorted(key))} for {whose}.")
    out().print(f"Take it away with: runhook keys revoke {key.id}")


def _master(settings: Settings) -> str:
    """Return the master secret; a new one, and say so, when there is none. Raises ConfigError."""
    if found := settings.master_secret():
        return found
    made = settings.master_secret(make=True)
    where = (settings.data / SECRET_FILE).absolute()
    sys.stderr.write(f"runhook: there was no RUNHOOK_SECRET: a new one is made: {where}\n")
    return made


def _check_master(known: list[Key], master: str, settings: Settings) -> None:
    """Raise ConfigError when a key in use was made with another secret: its webhooks would be signed wrongly."""
    for key in known:
        if key.revoked_at is None and api_key.digest(api_key.derive(master, key.id)) != key.hash:
            where = (
                "RUNHOOK_SECRET" if settings.secret else f"RUNHOOK_SECRET is not set, and {settings.data}/{SECRET_FILE}"
            )
            raise ConfigError(
                f"{where}: is not the secret that key {key.id} ({clean(key.name, 40)}) was made with; set"
                " RUNHOOK_SECRET to the same value on each host, or revoke the keys that were made with the other one"
            )


@app.command("list")
def list_(
    config: ConfigFile = None, data: DataDirectory = None, output: Output = None, as_json: ListJson = False
) -> None:
    """List the keys, the oldest first."""
    form = chosen_form(output, as_json)
    with open_ledger(Settings.from_env(config=config, data=data)) as ledger:
        found = ledger.read(api_keys.every)
    print_rows(
        [_row(key) for key in found],
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
        "There are no keys. Make one with: runhook keys create NAME",
        form,
    )


@app.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(help="Ids as `list` shows them.")],
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Revoke keys. They are refused within 5 seconds."""
    with open_ledger(Settings.from_env(config=config, data=data), tell=True) as ledger:
        known = {key.id for key in ledger.read(api_keys.every)}
        unknown = sorted(set(ids) - known)
        if unknown:
            raise UsageError(f"no such key: {', '.join(clean(each, 60) for each in unknown)}")
        now = time.time()
        count = sum(ledger.write(lambda connection: [api_keys.revoke(connection, each, now) for each in set(ids)]))
    out().print(f"{count} revoked.")


def _sorted(key: Key) -> list[str]:
    return [scope for scope in api_key.ALL_SCOPES if scope in key.scopes]


def _row(key: Key) -> dict[str, Any]:
    names = ("id", "name", "hint", "scopes", "source", "rate", "created_at", "used_at", "revoked_at")
    return {name: getattr(key, name) for name in names} | {"scopes": _sorted(key)}
