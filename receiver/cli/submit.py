"""`runhook submit` and `open`: submit a run through a service; open a run in its console."""

from __future__ import annotations

import json
import secrets
import sys
import time
import webbrowser
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from receiver.cli.client import Client, LocalClient
from receiver.cli.completion import completer
from receiver.cli.options import Json, check_id, parse_pairs
from receiver.cli.output import clean, coloured, out, print_json, warn
from receiver.cli.parameters import with_client
from receiver.cli.remote import RemoteClient
from receiver.domain.run import FINAL
from receiver.errors import RunhookError, UsageError

# Seconds for which the service holds a request for the result.
HELD: Final = 45.0
# Where a service of this machine listens by default.
LOCAL: Final = "http://127.0.0.1:8000"
# The page of the console for an id, by its prefix. All others are ids of runs.
_PAGES: Final = {"evt_": "events", "dlv_": "deliveries", "op_": "", "sub_": "", "": "runs"}


@with_client
def submit(
    client: Client,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to do, for a task.")] = "",
    agent: Annotated[str, typer.Option("--agent", metavar="ID", help="Run this agent (wpid_…) instead.")] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="Parameter of the agent, JSON or text; repeatable."),
    ] = None,
    page: Annotated[str, typer.Option("--page", metavar="URL", help="Start URL of a task.")] = "",
    title: Annotated[str, typer.Option("--title", metavar="WORDS", help="Title, for lists.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Label; repeatable.")] = None,
    once: Annotated[
        str, typer.Option("--once", metavar="KEY", help="Idempotency key: the same key submits no second run.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the result; exits with 1 unless it is completed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a task or an agent run, and wait for its result."""
    if not isinstance(client, RemoteClient):
        raise UsageError(f"submit needs a service: name it with --url, --profile or RUNHOOK_URL, such as {LOCAL}")
    if bool(prompt) == bool(agent):
        raise UsageError("pass either a PROMPT or --agent ID")
    if (agent and page) or (parameter and not agent):
        raise UsageError("--page is for a task, --param for an agent")
    request: dict[str, Any] = {"title": title} if title else {}
    if agent:
        parameters = {name: _json_or_text(value) for name, value in parse_pairs("--param ", parameter).items()}
        path, request = "/v1/run/agents", {"agent_id": agent, "parameters": parameters, **request}
    else:
        path, request = "/v1/run/tasks", {"prompt": prompt, **({"url": page} if page else {}), **request}
    run = client.submit(path, request, parse_pairs("--label ", label), once or secrets.token_hex(16))
    run_id = str(run.get("run_id", ""))
    if wait:
        warn(f"submitted {clean(run_id, 100)}; waiting for its result")
        run = _result(client, run_id)
    if as_json:
        print_json(run)
    else:
        _print(run, run_id)
    if wait and run.get("status") != "completed":
        raise typer.Exit(RunhookError.exit_code)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _result(client: RemoteClient, run_id: str) -> dict[str, Any]:
    while True:
        began = time.monotonic()
        run = client.run(run_id, HELD)
        if run.get("status") in FINAL:
            return run
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))  # in case the service does not hold the request


def _print(run: Mapping[str, Any], run_id: str) -> None:
    out().print(coloured(clean(run_id)).append("  ").append_text(coloured(clean(run.get("status", "")))))
    for name in ("failure_reason", "output"):
        if (value := run.get(name)) is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            out().print(f"{name}: {clean(text)}", soft_wrap=True)


@with_client
def open_(
    client: Client,
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="RUN|EVENT|DELIVERY", help="Its id. Default: the first page.", autocompletion=completer("run")
        ),
    ] = "",
) -> None:
    """Open a run, an event or a delivery in the console."""
    if identifier:
        check_id(identifier)
    address = console_address(client, identifier)
    out().print(address, soft_wrap=True)
    if sys.stdout.isatty():
        webbrowser.open(address)


def console_address(client: Client, identifier: str, source: str = "") -> str:
    """Return the address of a run, an event or a delivery in the console, or of its first page.

    Raises UsageError for the id of something without a page.
    """
    base = LOCAL
    if isinstance(client, RemoteClient):
        base = client.service.url
    elif isinstance(client, LocalClient) and client.settings.session is not None:
        base = client.settings.session.console  # of `runhook dev` in this folder
    kind = next((each for each in _PAGES if identifier.startswith(each)), "")
    if identifier and not _PAGES[kind]:
        raise UsageError(f"{identifier}: only runs, events and deliveries have a page")
    path = f"{_PAGES[kind]}/{quote(identifier, safe='')}" if identifier else ""
    return f"{base}/console/{path}" + (f"?{urlencode({'source': source})}" if source else "")
