"""The `runhook` command. Each group of commands has a file of its own; here they are put together.

A user's mistake is one line on standard error and an exit code that means something:
0 done, 1 it did not work out, 2 something a person wrote is wrong, 3 a part that is needed could not be started.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

from receiver import __version__
from receiver.errors import RunhookError

# Where each command lives. A module is imported only for the command that was asked for: start-up stays quick.
COMMANDS: dict[str, tuple[str, str]] = {
    "dev": ("receiver.cli.dev", "dev"),
    "serve": ("receiver.cli.serve", "serve"),
    "worker": ("receiver.cli.worker", "worker"),
    "clock": ("receiver.cli.clock", "clock"),
    "check": ("receiver.cli.check", "check"),
    "schema": ("receiver.cli.check", "schema"),
    "trigger": ("receiver.cli.trigger", "trigger"),
    "runs": ("receiver.cli.lists", "runs"),
    "events": ("receiver.cli.lists", "events"),
    "deliveries": ("receiver.cli.lists", "deliveries"),
    "dead": ("receiver.cli.operate", "dead"),
    "attempts": ("receiver.cli.operate", "attempts"),
    "replay": ("receiver.cli.operate", "replay"),
    "cancel": ("receiver.cli.operate", "cancel"),
    "operations": ("receiver.cli.operate", "operations"),
    "sink": ("receiver.cli.sinks", "app"),
    "quarantine": ("receiver.cli.quarantine", "app"),
    "simulate": ("receiver.cli.simulate", "simulate"),
}


def build_app(wanted: str | None = None) -> typer.Typer:
    """The command line; with only command `wanted` when that is one of ours."""
    app = typer.Typer(
        name="runhook",
        help="The callback target for Skyvern runs: verify, keep, route, deliver, retry, replay.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _version(
        version: bool = typer.Option(False, "--version", help="Show the version and exit."),
    ) -> None:
        if version:
            typer.echo(f"runhook {__version__}")
            raise typer.Exit

    for name, (module, attribute) in COMMANDS.items():
        if wanted in COMMANDS and name != wanted:
            continue
        command: Any = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """The entry point of the `runhook` command."""
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    try:
        build_app(wanted)()
    except RunhookError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"runhook: {line}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
