"""Commands that list: made from an endpoint of the API, whose parameters are the options."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, get_args, get_origin

import typer

from receiver.api.endpoint import Endpoint
from receiver.api.models import Parameters
from receiver.cli.client import Client, rows_of, with_client
from receiver.cli.options import Form, Limit, ListJson, Output, chosen_form
from receiver.cli.output import Columns, clean, print_rows
from receiver.errors import Invalid, UsageError
from receiver.ledger.filters import LIMIT

# Options whose name is not that of the parameter.
_NAMES: Final = {"event_id": "event"}
# Where the right ones are of what there is none.
_HINTS: Final = {
    "run": "`runhook runs` lists them",
    "event": "`runhook events` lists them",
    "delivery": "`runhook deliveries --json` shows their ids",
}
# Parameters that the command fills in itself.
_OWN: Final = frozenset({"limit", "after"})
_LONGEST: Final = 60  # characters of a value that a message repeats


def list_command(
    endpoint: Endpoint[Any, Any],
    columns: Columns,
    empty: str,
    *,
    doc: str,
    nothing: str = "",
    argument: tuple[Any, Callable[[str], dict[str, Any]]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    most: int = LIMIT,
    note: Callable[[Any], str] | None = None,
    instead: Mapping[str, Any] | None = None,
    do_instead: Callable[..., None] | None = None,
) -> Callable[..., None]:
    """Return the command that lists what `endpoint` does, with an option for each parameter.

    `columns`: of the table. `empty`: what is printed in place of no rows; `nothing`: where nothing was asked for.
    `doc`: what its help says. `argument`: one that is no option, as annotation, and a function that makes parameters of
    it. `fixed`: values that are no choice. `most`: rows that are shown by default. `note`: of a list that comes whole,
    what is to be said beside its rows. `instead`: further options; with any of them, `do_instead` is called in place of
    printing, with the client, the parameters, and them.
    """
    model, fixed = endpoint.parameters, fixed or {}
    taken = [name for name in model.model_fields if name not in _OWN and name not in fixed]

    def command(client: Client, limit: int, output: Form | None, as_json: bool, **given: Any) -> None:
        form = chosen_form(output, as_json)
        identifier = given.pop("argument", None)
        further = {name: given.pop(name) for name in instead or ()}
        named = argument[1](identifier) if argument and identifier is not None else {}
        asked = given_options(given)
        client.tell = form is Form.TABLE
        with named_options(asked, named):
            parameters = endpoint.validated({**fixed, **asked, **named})
            check_times(parameters, asked)
            if do_instead is not None and given_options(further):
                do_instead(client, parameters, **further)
                return
            whole = None if note is None else client.call(endpoint, parameters)
            rows = rows_of(client, endpoint, parameters, limit) if whole is None else iter(whole.items[:limit])
            print_rows(
                _dumped(rows, form),
                columns,
                empty if asked or named or not nothing else nothing,
                form,
                names=list(row_model(endpoint).model_fields),
            )
            if note is not None and (said := note(whole)):
                sys.stderr.write(f"runhook: {said}\n")

    parameters = [
        inspect.Parameter("client", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Client),
        *([_argument(argument[0])] if argument else []),
        *option_parameters(model, taken),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in (instead or {}).items()
        ),
        inspect.Parameter("limit", inspect.Parameter.KEYWORD_ONLY, default=most, annotation=Limit),
        inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Output),
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=ListJson),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = doc
    made = with_client(command)
    made.lists = endpoint  # type: ignore[attr-defined]  # what docs/cli-json.md is compared with
    return made


def _argument(annotation: Any) -> inspect.Parameter:
    return inspect.Parameter("argument", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def option_parameters(model: type[Parameters], names: Iterable[str]) -> list[inspect.Parameter]:
    """Return parameters of a command: an option for each of these members of `model`."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if model.model_fields[name].annotation is bool else None,
            annotation=_option(name, model.model_fields[name]),
        )
        for name in names
    ]


def row_model(endpoint: Endpoint[Any, Any]) -> Any:
    """Return the model of the rows of a list."""
    (row,) = get_args(endpoint.result.model_fields["items"].annotation)
    return row


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


def _dumped(rows: Iterator[Any], form: Form) -> Iterator[dict[str, Any]]:
    """Yield rows as programs get them: times as text; for a table as numbers, to count from now."""
    mode = "python" if form is Form.TABLE else "json"
    return (row.model_dump(mode=mode) for row in rows)


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
