"""`runhook mcp`: the calls of the API as tools for a model, over the Model Context Protocol."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final

import typer

from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.options import Host
from receiver.cli.profiles import checked_url
from receiver.config.variables import process_variables
from receiver.errors import NotStarted, UsageError

if TYPE_CHECKING:
    from receiver.cli.mcp_tools import RunSubmitter

# The scopes that a model has only when they are given.
_ALLOWED: Final = ("operate", "submit")
_SHORTEST_TOKEN: Final = 16


@with_client
def mcp(
    client: Client,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Tools that change something too: operate, submit; may be repeated."),
    ] = None,
    http: Annotated[
        int | None,
        typer.Option("--http", metavar="PORT", min=0, max=65535, help="Serve over HTTP; 0 takes a free port."),
    ] = None,
    host: Host = "127.0.0.1",
    submit_url: Annotated[
        str | None, typer.Option("--submit-url", help="The submit API, where it is not beside the JSON API.")
    ] = None,
) -> None:
    """Give a model tools to look at runs, and with --allow to act: a server of the Model Context Protocol.

    It serves one client on standard input and output, or with --http any that has the token of RUNHOOK_MCP_TOKEN.
    """
    scopes = _scopes(allow or [])
    if not find_spec("mcp"):
        raise NotStarted("the MCP SDK is not installed: pip install 'runhook[mcp]'")
    from receiver.cli import mcp_server
    from receiver.cli.mcp_tools import instructions, tools

    with ExitStack() as stack:
        submitter = _submitter(client, scopes, submit_url, stack)
        found = tools(client, scopes, submitter)
        server = mcp_server.server_of(found, instructions(found, client.where))
        if http is None:
            client.tell = True
            mcp_server.run_stdio(server)
        else:
            mcp_server.run_http(server, host, http, _token)


def _scopes(allow: list[str]) -> list[str]:
    scopes = [part.strip() for each in allow for part in each.split(",") if part.strip()]
    if unknown := sorted(set(scopes) - set(_ALLOWED)):
        raise UsageError(f"--allow {unknown[0]}: there are {' and '.join(_ALLOWED)}; looking needs no --allow")
    return scopes


def _submitter(client: Client, scopes: list[str], submit_url: str | None, stack: ExitStack) -> RunSubmitter | None:
    """Return what submits runs, if that is allowed. Raises UsageError where there is no service to submit to."""
    if "submit" not in scopes:
        return None
    if isinstance(client, LocalClient):
        raise UsageError(
            "--allow submit: runs are submitted to a service; name it with --url, --profile or RUNHOOK_URL"
        )
    from receiver.cli.remote import RemoteClient
    from receiver.cli.submit_client import SubmitClient

    assert isinstance(client, RemoteClient)
    service = (
        client.service if submit_url is None else replace(client.service, url=checked_url("--submit-url", submit_url))
    )
    submitter = SubmitClient(service)
    stack.callback(submitter.close)
    return submitter


def _token() -> str:
    """Return the token of HTTP clients; a new one, which is told, when none is set. Raises UsageError."""
    if token := process_variables().text("RUNHOOK_MCP_TOKEN"):
        if len(token) < _SHORTEST_TOKEN:
            raise UsageError(f"RUNHOOK_MCP_TOKEN: must have {_SHORTEST_TOKEN} characters or more")
        return token
    token = secrets.token_urlsafe(24)
    sys.stderr.write(f"runhook: clients need the header Authorization: Bearer {token}\n")
    return token
