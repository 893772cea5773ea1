"""`runhook config show`: the configuration in force, and where each value comes from."""

from __future__ import annotations

from typing import Any

import typer

from handlers.support.url import STARS
from receiver.cli.check import holds_secret
from receiver.cli.options import ConfigFile, DataDirectory, Json
from receiver.cli.output import print_json, print_table
from receiver.config.loader import Loaded, load_file
from receiver.config.settings import OTHER_VARIABLES, SECRET_NAME, Settings, show_value
from receiver.config.variables import DEFAULT
from receiver.errors import ConfigError

app = typer.Typer(help="Show the configuration in force, and where each value comes from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `show` a command of its own: typer would otherwise make it the group."""


@app.command()
def show(config: ConfigFile = None, data: DataDirectory = None, as_json: Json = False) -> None:
    """Print which config file is in force, and each variable with its value and origin. Secrets are stars."""
    settings = Settings.from_env(config=config, data=data)
    rows = [_row(settings, name, value) for name, value in _declared(settings).items()]
    try:
        loaded = load_file(settings.config, settings.environ, allow_unset=True)
        rows += _of_file(settings, loaded, {row["name"] for row in rows})
        problem = None
    except ConfigError as error:
        problem = error
    if as_json:
        print_json({"config": str(settings.config), "origin": _why(settings), "variables": rows})
    else:
        typer.echo(f"config: {settings.config} ({_why(settings)})\n")
        print_table(
            ["variable", "value", "from"], [[row["name"], row["value"] or "not set", row["origin"]] for row in rows], ""
        )
    if problem:
        raise problem


def _why(settings: Settings) -> str:
    if settings.packaged_config:
        return "ships with Runhook"
    origin = _row(settings, "RUNHOOK_CONFIG", "")["origin"]
    return "found in the working directory" if origin == DEFAULT else f"RUNHOOK_CONFIG: {origin}"


def _row(settings: Settings, name: str, shown: str, default: str = DEFAULT) -> dict[str, Any]:
    """Return the row of a variable. `shown`: its value for output, or "". `default`: the origin of a value not set."""
    variable = settings.environ.find(name)
    origin = variable.origin if variable and variable.value.strip() else default
    return {"name": name, "value": shown or None, "origin": origin}


def _declared(settings: Settings) -> dict[str, str]:
    """Return Runhook's own variables with their values for output."""
    shown = settings.summary()
    return shown | {
        name: show_value(name, settings.environ.text(name)) for name in OTHER_VARIABLES if name not in shown
    }


def _of_file(settings: Settings, loaded: Loaded, known: set[str]) -> list[dict[str, Any]]:
    """Return the rows of the variables that only the file names."""
    document = loaded.document
    rows: dict[str, dict[str, Any]] = {}
    for key, used in document.substituted.items():
        for name in used.keys() - known:
            shown = show_value(name, "" if name in loaded.unset else used[name])
            if shown and (any(SECRET_NAME.search(str(part)) for part in key) or holds_secret(loaded.config, key)):
                shown = STARS
            if name not in rows or shown == STARS:
                default = f"{DEFAULT} ({document.path}:{document.line(key)})" if shown else DEFAULT
                rows[name] = _row(settings, name, shown, default)
    return [rows[name] for name in sorted(rows)]
