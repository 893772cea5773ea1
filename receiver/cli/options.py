"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.output import Form, clean
from receiver.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from receiver.config.fields import ListenAddress
    from receiver.config.models import Config
    from receiver.config.settings import Settings


ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Config file (RUNHOOK_CONFIG).")]
DataDirectory = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data directory (RUNHOOK_DATA).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Form | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        help="Print table, json, jsonl (one object per line) or csv.",
        show_default=False,
    ),
]
ListJson = Annotated[bool, typer.Option("--json", help="Same as -o json.")]
Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any free port.")
]
AdminPort = Annotated[
    str,
    typer.Option(
        "--admin-port",
        metavar="[ADDRESS:]PORT",
        help="Serve /metrics, /readyz?all, /api/v1 and /console on this port only. Default address: 127.0.0.1"
        " (server.admin).",
        show_default=False,
    ),
]
WatchSince = Annotated[
    str,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Also import runs of watched accounts created since then, such as 24h. Default: only runs that end after"
        " the first start.",
        show_default=False,
    ),
]
Limit = Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, help="Maximum number of rows.")]
AllRows = Annotated[bool, typer.Option("--all", help="All rows, page by page; -o jsonl and csv print as they come.")]
SourceName = Annotated[str, typer.Option("--source", metavar="NAME", help="Filter by source.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the prompt.")]
# How many items need a confirmation on a terminal: if the change can be undone or is due anyway, and if it is final.
CONFIRM_FROM = 1001
CONFIRM_FINAL_FROM = 11


def new_app() -> typer.Typer:
    """Return a group of commands with plain help."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def confirm(count: int, question: str, *, yes: bool, final: bool = True) -> None:
    """Ask before changing `count` items, if a person can answer. Raises typer.Abort for a no.

    `final`: the change cannot be undone.
    """
    if count >= (CONFIRM_FINAL_FROM if final else CONFIRM_FROM) and can_ask(yes=yes):
        typer.confirm(question, abort=True)


def can_ask(*, yes: bool) -> bool:
    """Whether a person is at the terminal and has not said yes already."""
    return not yes and sys.stdin.isatty()


def chosen_form(output: Form | None, as_json: bool) -> Form:
    """Return the format that --output and --json select. Raises UsageError if they differ."""
    if as_json and output not in (None, Form.JSON):
        raise UsageError(f"--json and --output {output} are mutually exclusive")
    return Form.JSON if as_json else output or Form.TABLE


def load_config(config: Path | None, data: Path | None, *, alone: bool = False) -> tuple[Settings, Config]:
    """Return the settings and the config that the options name. Raises ConfigError.

    `alone`: for a process of its own. It starts logging and needs a config file: in the wrong folder it would use the
    wrong routes.
    """
    from receiver.config.loader import load  # not needed by commands that only read the ledger
    from receiver.config.settings import CONFIG_FILES, Settings
    from receiver.telemetry import logs

    settings = Settings.from_env(config=config, data=data)
    if alone and settings.packaged_config:
        here = f"{Path.cwd()} has no {' or '.join(map(str, CONFIG_FILES[:-1]))}"
        raise ConfigError(f"no config file: {here}. Write one with `runhook init`, or set RUNHOOK_CONFIG")
    if alone:
        logs.set_up(settings.log_level, settings.log_format)
    return settings, load(settings.config, settings.environ)


def parse_admin_port(text: str) -> ListenAddress | None:
    """Return the address of --admin-port; None for "". Raises UsageError."""
    from receiver.config.fields import ListenAddress, parse_listen_address

    if not text:
        return None
    try:
        found = parse_listen_address(text)
    except ValueError as problem:
        raise UsageError(f"--admin-port {text}: {problem}") from None
    assert isinstance(found, ListenAddress)
    return found


def parse_time(text: str) -> float | None:
    """Return the time of --since in seconds since the epoch; None for "". Raises UsageError."""
    from receiver.api.models import parse_moment

    if not text:
        return None
    try:
        return parse_moment(text, zone=None)
    except ValueError as problem:
        raise UsageError(f"--since {text}: {problem}") from None


def parse_pairs(option: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the values of NAME=VALUE pairs by name. Raises UsageError. `option`: how messages call them."""
    values = {}
    for pair in pairs or ():
        name, found, value = pair.partition("=")
        if not found or not name:
            raise UsageError(f"{option}{pair}: write NAME=VALUE")
        values[name] = value
    return values


def check_id(identifier: str) -> None:
    """Raise UsageError if `identifier` is not a valid id, or is cut too short."""
    from receiver.ledger.lists.filters import id_trouble

    if trouble := id_trouble(identifier):
        shown = clean(identifier, 60)
        raise UsageError(f"{shown}: {trouble}" if shown.strip() else trouble)
