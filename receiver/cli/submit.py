"""`runhook submit` and `open`: start a run through a service's submit API; see a run in its console."""

from __future__ import annotations

import json
import secrets
import sys
import time
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.commands import COMMANDS
from receiver.cli.names import check_form
from receiver.cli.options import Json, parse_labels
from receiver.cli.output import clean, coloured, out, print_json
from receiver.cli.remote import RemoteClient
from receiver.cli.submit_client import SubmitClient
from receiver.domain.run import FINAL
from receiver.errors import RunhookError, UsageError

# Seconds for which the service holds one request for the result.
HELD: Final = 45.0
# Where a service of this machine listens unless it is told otherwise.
LOCAL: Final = "http://127.0.0.1:8000"
# By the beginning of an id: where the console has the page of what it is the id of. All others are ids of runs.
_PAGES: Final = {"evt_": "events", "dlv_": "deliveries", "op_": "", "sub_": "", "": "runs"}


def _service(client: Client, command: str) -> RemoteClient:
    if not isinstance(client, RemoteClient):
        raise UsageError(
            f"{command}: runs are submitted to a service; name it with --url, --profile or RUNHOOK_URL, such as {LOCAL}"
        )
    return client


def _submit(
    client: Client,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What is to be done; not for an agent.")] = "",
    agent: Annotated[str, typer.Option("--agent", metavar="ID", help="Run this agent (wpid_…) instead.")] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter of the agent, JSON or text; may be repeated."),
    ] = None,
    page: Annotated[str, typer.Option("--page", metavar="URL", help="Where a task begins.")] = "",
    title: Annotated[str, typer.Option("--title", metavar="WORDS", help="What lists call it.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label; may be repeated.")
    ] = None,
    once: Annotated[
        str, typer.Option("--once", metavar="KEY", help="Idempotency key: the same again makes no second run.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result; ends with 1 unless it completed.")] = False,
    as_json: Json = False,
) -> None:
    service = _service(client, "submit")
    if bool(prompt) == bool(agent):
        raise UsageError("say what to run: either a PROMPT, or --agent ID")
    if (agent and page) or (parameter and not agent):
        raise UsageError("--page is for a task, and --param for an agent")
    named = {"title": title} if title else {}
    if agent:
        path, request = "/v1/run/agents", {"agent_id": agent, "parameters": parse_parameters(parameter or ()), **named}
    else:
        path, request = "/v1/run/tasks", {"prompt": prompt, **({"url": page} if page else {}), **named}
    submitter = SubmitClient(service.service)
    try:
        made = submitter.submit(path, request, parse_labels(label), once or secrets.token_hex(16))
        run_id = str(made.get("run_id", ""))
        if wait:
            sys.stderr.write(f"runhook: submitted {clean(run_id, 100)}; waiting for its result\n")
            made = _result(submitter, run_id)
    finally:
        submitter.close()
    _print(made, run_id, as_json=as_json)
    if wait and made.get("status") != "completed":
        raise typer.Exit(RunhookError.exit_code)


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of --param NAME=VALUE: JSON where it is some, else text. Raises UsageError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise UsageError(f"--param {pair}: write NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _result(submitter: SubmitClient, run_id: str) -> dict[str, Any]:
    while True:
        began = time.monotonic()
        found = submitter.run(run_id, HELD)
        if found.get("status") in FINAL:
            return found
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))  # should the service not hold the request


def _print(made: Mapping[str, Any], run_id: str, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    out().print(coloured(clean(run_id)).append("  ").append_text(coloured(clean(made.get("status", "")))))
    for name in ("failure_reason", "output"):
        if made.get(name) is not None:
            value = made[name] if isinstance(made[name], str) else json.dumps(made[name], ensure_ascii=False)
            out().print(f"{name}: {clean(value)}", soft_wrap=True)


def _open(
    client: Client,
    identifier: Annotated[
        str, typer.Argument(metavar="RUN|EVENT|DELIVERY", help="Its id; the first page without one.")
    ] = "",
) -> None:
    if identifier:
        check_form(identifier)
    address = console_address(client, identifier)
    out().print(address, soft_wrap=True)
    if sys.stdout.isatty():
        webbrowser.open(address)


def console_address(client: Client, identifier: str, source: str = "") -> str:
    """Return the address of a run, an event or a delivery in the console, or of its first page; on this machine where
    `runhook dev` has it. Raises UsageError for the id of something that has no page."""
    base = LOCAL
    if isinstance(client, RemoteClient):
        base = client.service.url
    elif isinstance(client, LocalClient) and client.settings.session is not None:
        base = client.settings.session.console
    kind = next((each for each in _PAGES if identifier.startswith(each)), "")
    if identifier and not _PAGES[kind]:
        raise UsageError(f"{identifier}: has no page; a run, an event or a delivery has one")
    path = f"{_PAGES[kind]}/{quote(identifier, safe='')}" if identifier else ""
    return f"{base}/console/{path}" + (f"?{urlencode({'source': source})}" if source else "")


_submit.__doc__ = COMMANDS["submit"].help
_open.__doc__ = COMMANDS["open"].help
submit = with_client(_submit)
open_ = with_client(_open)
