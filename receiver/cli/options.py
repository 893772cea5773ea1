"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from receiver.config.fields import ListenAddress
    from receiver.config.models import Config
    from receiver.config.settings import Settings


class Form(StrEnum):
    """The form in which a list is printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


ConfigFile = Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")]
DataDirectory = Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Form | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        help="Print a table, json, jsonl (an object a line) or csv.",
        show_default=False,
    ),
]
ListJson = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
AdminPort = Annotated[
    str,
    typer.Option(
        "--admin-port",
        metavar="[ADDRESS:]PORT",
        help="A second port, of 127.0.0.1 unless an address is given, for /metrics, /readyz?all, /api/v1 and /console,"
        " which are then not on the first (server.admin).",
        show_default=False,
    ),
]
WatchSince = Annotated[
    str,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Also import runs of watched accounts that were created since then, such as 24h. Default: only runs that"
        " end after the first start.",
        show_default=False,
    ),
]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="At most so many rows.")]
SourceName = Annotated[str, typer.Option("--source", help="Only this source.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
# From how many on a person is asked first, on a terminal: where the change can be taken back, or only sends what is due
# anyhow; and where it can't, for a sink may then act twice, or what was kept is gone.
ASKED_FROM = 1001
ASKED_FOR_GOOD_FROM = 11


def confirm(count: int, question: str, *, yes: bool, for_good: bool = True) -> None:
    """Ask before a change of `count` things when a person is there to answer. Raises typer.Abort for a no.

    `for_good`: the change can't be taken back.
    """
    if count >= (ASKED_FOR_GOOD_FROM if for_good else ASKED_FROM) and may_ask(yes=yes):
        typer.confirm(question, abort=True)


def may_ask(*, yes: bool) -> bool:
    """Whether a person is there to answer who has not said yes already."""
    return not yes and sys.stdin.isatty()


def chosen_form(output: Form | None, as_json: bool) -> Form:
    """Return the form that --output and --json ask for. Raises UsageError when they differ."""
    if as_json and output not in (None, Form.JSON):
        raise UsageError(f"--json and --output {output}: one of them")
    return Form.JSON if as_json else output or Form.TABLE


def load_config(config: Path | None, data: Path | None, *, alone: bool = False) -> tuple[Settings, Config]:
    """Return the settings and the config that the options name. Raises ConfigError.

    `alone`: for a process that runs on its own. It logs from now on, and needs a config file: in the wrong folder it
    would work by the wrong rules.
    """
    from receiver.config.loader import load  # not needed by commands that read the ledger alone
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
    """Return where --admin-port listens; None for "". Raises UsageError."""
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
    """Return what --since says in seconds since the epoch, as the API understands times; None for "".

    Raises UsageError.
    """
    from receiver.api.models import parse_moment

    if not text:
        return None
    try:
        return parse_moment(text)
    except ValueError as problem:
        raise UsageError(f"--since {text}: {problem}") from None


def parse_labels(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the labels of --label NAME=VALUE. Raises UsageError."""
    labels = {}
    for pair in pairs or ():
        name, found, value = pair.partition("=")
        if not found or not name:
            raise UsageError(f"--label {pair}: write NAME=VALUE")
        labels[name] = value
    return labels
