"""Check a command line of Runhook without running it."""

from __future__ import annotations

from collections.abc import Sequence

from typer.main import get_command

from receiver.cli import build_app


def parse(arguments: Sequence[str]) -> None:
    """Parse `runhook ARGUMENTS`. Fails with click's error if the command or an option is unknown."""
    name, *options = arguments
    command = get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, options)


def default(name: str, option: str) -> float:
    """Return the default of a numeric option."""
    command = get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]
    return float(next(each.default for each in command.params if each.name == option))
