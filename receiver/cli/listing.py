"""Commands that list: made from an endpoint of the API, whose parameters are the options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, get_args

from receiver.api.endpoint import Endpoint
from receiver.cli.api_options import api_options, check_times, given_options, named_options
from receiver.cli.client import Client, rows_of, with_client
from receiver.cli.options import Form, Limit, ListJson, Output, chosen_form
from receiver.cli.output import Columns, print_rows
from receiver.ledger.filters import LIMIT

# Parameters that the command fills in itself.
_OWN: Final = frozenset({"limit", "after"})


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

    def command(
        client: Client, asked: dict[str, Any], limit: int, output: Form | None, as_json: bool, **given: Any
    ) -> None:
        form = chosen_form(output, as_json)
        identifier = given.pop("argument", None)
        further = given_options(given)
        named = argument[1](identifier) if argument and identifier is not None else {}
        client.tell = form is Form.TABLE
        with named_options(asked, named):
            parameters = endpoint.validated({**fixed, **asked, **named})
            check_times(parameters, asked)
            if do_instead is not None and further:
                do_instead(client, parameters, **{name: further.get(name) for name in instead or ()})
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
        inspect.Parameter("asked", inspect.Parameter.KEYWORD_ONLY),
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
    made = with_client(api_options(model, without={*_OWN, *fixed})(command))
    made.lists = endpoint  # type: ignore[attr-defined]  # what docs/reference/cli-json.md is compared with
    return made


def _argument(annotation: Any) -> inspect.Parameter:
    return inspect.Parameter("argument", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def row_model(endpoint: Endpoint[Any, Any]) -> Any:
    """Return the model of the rows of a list."""
    (row,) = get_args(endpoint.result.model_fields["items"].annotation)
    return row


def _dumped(rows: Iterator[Any], form: Form) -> Iterator[dict[str, Any]]:
    """Yield rows as programs get them: times as text; for a table as numbers, to count from now."""
    mode = "python" if form is Form.TABLE else "json"
    return (row.model_dump(mode=mode) for row in rows)
