"""Check a command line of Runhook without running it."""

from __future__ import annotations

from collections.abc import Sequence

from receiver.cli.commands import load


def parse(arguments: Sequence[str]) -> None:
    """Parse `runhook ARGUMENTS`. Fails with click's error if the command or an option is unknown."""
    name, *options = arguments
    command = load(name)
    command.make_context(name, options)


def default(name: str, option: str) -> float:
    """Return the default of a numeric option."""
    command = load(name)
    return float(next(each.default for each in command.params if each.name == option))
