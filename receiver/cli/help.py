"""How the help of commands looks: words in place of types, and examples below."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperGroup

from receiver.cli.examples import EXAMPLES

# What stands for the value of an option, where its declaration says nothing else.
_WORDS: Final = {
    "config": "FILE",
    "data": "DIR",
    "output": "FILE",
    "host": "ADDRESS",
    "port": "PORT",
    "url": "URL",
    "public_url": "URL",
    "artifacts": "URL",
    "run": "ID",
    "run_id": "ID",
    "run_prefix": "ID",
    "event": "ID",
    "event_id": "ID",
    "workflow": "ID",
    "run_type": "TYPE",
    "title": "WORDS",
    "reason": "WORDS",
    "text": "WORDS",
    "route": "NAME",
    "label": "NAME=VALUE",
    "actor": "NAME",
    "action": "NAME",
    "agents": "ID",
    "sink": "NAME",
    "source": "NAME",
    "only": "NAME",
    "profile": "NAME",
    "status": "STATUS",
    "state": "STATE",
    "scope": "SCOPE",
    "since": "TIME",
    "until": "TIME",
    "rate": "RATE",
    "key": "KEY",
    "allow": "SCOPE",
    "submit_url": "URL",
    "delivery": "ID",
    "into": "NAME",
    "limit": "N",
    "top": "N",
    "by": "WHAT",
    "bucket": "TIME",
    "api_key": "KEY",
    "secret": "KEY",
}


class CommandGroup(TyperGroup):
    """The command line as a whole, with the help of each command made readable."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _polish(self)


def _polish(command: Any, path: tuple[str, ...] = ()) -> None:
    """Put words in place of types, and examples, into the help of `command` and of those below it."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = _no_type  # the name says what it is
        elif parameter.metavar is None:
            parameter.metavar = _word(parameter)
        # Typer shows limits as [x>=1] from these; a value beyond them is refused as before.
        parameter.min = parameter.max = None
    make_help_option = command.get_help_option

    def help_option(ctx: Any) -> Any:
        option = make_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option

    command.get_help_option = help_option
    for name, below in getattr(command, "commands", {}).items():
        _polish(below, (*path, name))
    if examples := EXAMPLES.get(" ".join(path)):
        lines = (" ".join(filter(None, ["runhook", *path, example])) for example in examples)
        command.epilog = "Examples:\n" + "\n".join(lines).replace("[", "\\[")


def _no_type(**_: Any) -> None:
    return None


def _word(parameter: Any) -> str:
    if parameter.is_flag:
        return ""
    return _WORDS.get(parameter.name) or ("N" if isinstance(parameter.default, int | float) else "VALUE")
