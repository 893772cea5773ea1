"""Options of commands that are parameters of the API: made from its models, and named in the errors about them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, get_origin

import typer

from receiver.api.models import Parameters
from receiver.cli.client import Client
from receiver.cli.output import clean
from receiver.errors import Invalid, UsageError

# Options whose name is not that of the parameter.
_NAMES: Final = {"event_id": "event"}
# Where the right ones are of what there is none.
_HINTS: Final = {
    "run": "`runhook runs` lists them",
    "event": "`runhook events` lists them",
    "delivery": "`runhook deliveries --json` shows their ids",
}
_LONGEST: Final = 60  # characters of a value that a message repeats

Command = Callable[..., None]


def api_options(model: type[Parameters], *, without: Collection[str]) -> Callable[[Command], Command]:
    """Return the decorator of a command that has an option for each member of `model` but `without`.

    They stand where the command has its parameter `asked`, which gets those that were given a value, by name.
    """
    names = [name for name in model.model_fields if name not in without]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for each in signature.parameters.values():
            parameters += _option_parameters(model, names) if each.name == "asked" else [each]

        @functools.wraps(command)
        def call(client: Client, **given: Any) -> None:
            asked = given_options({name: given.pop(name) for name in names})
            command(client, asked=asked, **given)

        client, *others = parameters
        keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in others]
        call.__signature__ = signature.replace(parameters=[client, *keywords])  # type: ignore[attr-defined]
        return call

    return decorate


def _option_parameters(model: type[Parameters], names: Iterable[str]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if model.model_fields[name].annotation is bool else None,
            annotation=_option(name, model.model_fields[name]),
        )
        for name in names
    ]


def option_of(name: str) -> str:
    """Return the option for a parameter of the API."""
    return f"--{_NAMES.get(name, name).replace('_', '-')}"


@contextmanager
def named_options(given: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Give a block in which an error about a parameter names the option. `given`: what was written, by parameter;
    `arguments`: what was written without an option.

    Raises UsageError in place of Invalid.
    """
    try:
        yield
    except Invalid as error:
        if not error.problems:
            raise
        raise UsageError("\n".join(_told(each, given, arguments or {}) for each in error.problems)) from None


def _told(problem: Mapping[str, str], given: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    name, text = problem["name"], clean(problem["message"].removeprefix(f"{problem['name']}: "))
    name = name.partition(".")[0]
    if hint := _HINTS.get(text.partition("there is no such ")[2]):
        text += f"; {hint}"
    if name in arguments:
        return text
    value = given.get(name)
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    option = option_of(name)
    shown = clean(value, _LONGEST)
    return f"{option} {text}" if value is None or text.startswith(f"{shown}:") else f"{option} {shown}: {text}"


def given_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that were given a value.

    Raises UsageError for an empty one, which a script's empty variable makes: it must not mean all there are.
    """
    for name, value in given.items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UsageError(f"{option_of(name)}: is empty; give it a value, or leave it out")
    return {name: value for name, value in given.items() if value not in (None, "", [], False)}


def check_times(parameters: Any, asked: Mapping[str, Any]) -> None:
    """Raise UsageError for a time range that ends before it begins. `asked`: what was written."""
    since, until = getattr(parameters, "since", None), getattr(parameters, "until", None)
    if since is not None and until is not None and until <= since:
        raise UsageError(f"--until {asked['until']}: must be later than --since {asked['since']}")


def _is_many(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list)


def _option(name: str, field: Any) -> Any:
    """Return the annotation of the option for a parameter of the API."""
    annotation = field.annotation
    text = re.sub(r"`(\w+)`", lambda found: option_of(found[1]), field.description or "")
    kind: Any = str | None
    if annotation is bool:
        kind = bool
    elif _is_many(annotation):
        kind, text = list[str] | None, text.removesuffix(".") + "; may be repeated."
    return Annotated[kind, typer.Option(option_of(name), help=text)]
