"""Options of commands that are parameters of the API: made from its models, and named in the errors about them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, get_origin

import typer

from receiver.api.models import Parameters, clock_time
from receiver.cli.client import open_client
from receiver.cli.completion import completer, profile_names
from receiver.cli.output import clean
from receiver.errors import Invalid, UsageError

_NAMES: Final = {"event_id": "event"}  # options whose name differs from the parameter's
_LONGEST: Final = 60  # characters of a value that a message repeats
# What the help shows in place of a value.
_METAVARS: Final = {
    **dict.fromkeys(("run", "run_prefix", "event_id", "delivery", "workflow"), "ID"),
    **dict.fromkeys(("since", "until", "bucket"), "TIME"),
    **dict.fromkeys(("top", "limit"), "N"),
    **dict.fromkeys(("title", "reason", "text"), "WORDS"),
    **dict.fromkeys(("sink", "source", "route", "actor", "action", "into"), "NAME"),
    "label": "NAME=VALUE",
    "rate": "RATE",
}

# The options of each command that works on a remote service and on this machine's ledger.
OPTIONS: Final[dict[str, Any]] = {
    "url": Annotated[str | None, typer.Option("--url", metavar="URL", help="Remote service (RUNHOOK_URL).")],
    "key": Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="Its API key. RUNHOOK_KEY hides it from other users of this machine."
        ),
    ],
    "profile": Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="A service in ~/.config/runhook/profiles.toml.",
            autocompletion=profile_names,
        ),
    ],
    "config": Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Config file (RUNHOOK_CONFIG).")],
    "data": Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data directory (RUNHOOK_DATA).")],
}

Command = Callable[..., None]


def with_client(command: Command) -> Command:
    """Return `command`, whose first parameter is a Client, with the options that select the client in its place."""
    return _with_options(command)


def with_filter(model: type[Parameters], *, without: Collection[str]) -> Callable[[Command], Command]:
    """Return the decorator of a command that takes a Client and `asked`, with an option for each member of `model`.

    `asked` gets the options that were given a value, by name. `without`: members that are not options. A parameter of
    the command that is annotated with None is not one either: it keeps its default.
    """
    names = [name for name in model.model_fields if name not in without]
    return lambda command: _with_options(command, model, names)


def _with_options(command: Command, model: type[Parameters] | None = None, names: Collection[str] = ()) -> Command:
    @functools.wraps(command)
    def call(**given: Any) -> None:
        where = {name: given.pop(name) for name in OPTIONS}
        asked = {"asked": given_options({name: given.pop(name) for name in names})} if model else {}
        with open_client(**where) as client:
            command(client, **asked, **given)

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    shown = [each for each in own if each.name != "asked" and each.annotation is not None]
    options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown]
    if model:
        options += [_keyword(name, _option(name, model.model_fields[name]), None) for name in names]
    options += [_keyword(name, option, None) for name, option in OPTIONS.items()]
    call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in options}
    return call


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(name: str, field: Any) -> Any:
    """Return the annotation of the option for a parameter of the API."""
    text = re.sub(r"`(\w+)`", lambda match: option_of(match[1]), field.description or "")
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(option_of(name), help=text, show_default=False)]
    kind: Any = str | None
    if get_origin(field.annotation) in (tuple, list):
        kind, text = list[str] | None, text.removesuffix(".") + "; repeatable."
    metavar = _METAVARS.get(name, name.upper())
    return Annotated[
        kind, typer.Option(option_of(name), metavar=metavar, help=text, autocompletion=completer(name, field))
    ]


def option_of(name: str) -> str:
    """Return the option for a parameter of the API."""
    return f"--{_NAMES.get(name, name).replace('_', '-')}"


def given_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given a value; a time such as 22:43 is one of the local time zone.

    Raises UsageError for an empty one, as a script's empty variable makes: it must not select everything.
    """
    for name, value in given.items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UsageError(f"{option_of(name)} is empty: give it a value, or leave it out")
    times = {name: clock_time(str(given.get(name)), None) for name in ("since", "until")}
    clocks = {name: at.isoformat() for name, at in times.items() if at is not None}
    return {name: value for name, value in {**given, **clocks}.items() if value not in (None, [], False)}


@contextmanager
def named_options(given: Mapping[str, Any], arguments: Collection[str] = ()) -> Iterator[None]:
    """Give a block in which an error about a parameter names the option; UsageError replaces Invalid.

    `given`: what was written, by parameter. `arguments`: parameters that are not options.
    """
    try:
        yield
    except Invalid as error:
        if not error.problems:
            raise
        raise UsageError("\n".join(_described(each, given, arguments) for each in error.problems)) from None


def _described(problem: Mapping[str, str], given: Mapping[str, Any], arguments: Collection[str]) -> str:
    name, text = problem["name"], clean(problem["message"].removeprefix(f"{problem['name']}: "))
    name = name.partition(".")[0]
    if name in arguments:
        return text
    value = given.get(name)
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    shown = clean(value, _LONGEST)
    return (
        f"{option_of(name)} {text}"
        if value is None or text.startswith(f"{shown}:")
        else f"{option_of(name)} {shown}: {text}"
    )


def check_times(parameters: Any, asked: Mapping[str, Any]) -> None:
    """Raise UsageError for a time range that ends before it begins. `asked`: what was written."""
    since, until = getattr(parameters, "since", None), getattr(parameters, "until", None)
    if since is not None and until is not None and until <= since:
        raise UsageError(f"--until {asked['until']}: must be later than --since {asked['since']}")
