"""`runhook api`: any call of the JSON API by its name, on this machine's ledger or on a remote service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from receiver.api.catalogue import ENDPOINTS
from receiver.api.endpoint import Endpoint
from receiver.cli.client import Client
from receiver.cli.output import print_json, print_table
from receiver.cli.parameters import with_client
from receiver.domain.api_key import VIEW
from receiver.errors import Invalid, UsageError, suggest


def _calls(incomplete: str) -> list[tuple[str, str]]:
    return [(each.name, each.summary) for each in ENDPOINTS if each.name.startswith(incomplete)]


@with_client
def api(
    client: Client,
    call: Annotated[
        str, typer.Argument(metavar="CALL", help="Name of the call. Default: list all calls.", autocompletion=_calls)
    ] = "",
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Parameters: text or JSON; @FILE reads a file, @- standard input; repeatable."
        ),
    ] = None,
) -> None:
    """Call the JSON API by name, on this machine or on a remote service, and print the result as JSON.

    Without CALL, list the calls with their parameters. `next` of a result is the `after` of the next page.
    """
    if not call:
        rows = [[each.name, each.scope, _signature(each), each.summary] for each in ENDPOINTS]
        print_table(["call", "scope", "parameters", "what it does"], rows, "")
        return
    endpoint = next((each for each in ENDPOINTS if each.name == call), None)
    if endpoint is None:
        meant = suggest(call, [each.name for each in ENDPOINTS])
        raise UsageError(f"{call}: unknown call; {f'did you mean {meant}?' if meant else '`runhook api` lists them'}")
    client.announce = endpoint.scope != VIEW
    try:
        parameters = endpoint.validated(_parameters(endpoint, given or ()))
        result = client.call(endpoint, parameters)
    except Invalid as error:
        raise UsageError("\n".join(each["message"] for each in error.problems) or error.message) from None
    print_json(result.model_dump(mode="json"))


def _signature(endpoint: Endpoint[Any, Any]) -> str:
    fields = endpoint.parameters.model_fields.items()
    return " ".join(name if field.is_required() else f"[{name}]" for name, field in fields)


def _parameters(endpoint: Endpoint[Any, Any], pairs: Any) -> dict[str, Any]:
    """Return the parameters of KEY=VALUE pairs; a repeated key makes a list. Raises UsageError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found or not name:
            raise UsageError(f"{pair}: write KEY=VALUE")
        value = _value(endpoint, name, text)
        if endpoint.is_list(name):
            values[name] = [*values.get(name, ()), *(value if isinstance(value, list) else [value])]
        elif name in values:
            raise UsageError(f"{name}: given twice")
        else:
            values[name] = value
    return values


def _value(endpoint: Endpoint[Any, Any], name: str, text: str) -> Any:
    """Return a value: the file of @FILE, a JSON object or array unless the parameter is text. Raises UsageError."""
    if text.startswith("@"):
        try:
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}={text}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    field = endpoint.parameters.model_fields.get(name)
    if field is None or field.annotation is str or text[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
