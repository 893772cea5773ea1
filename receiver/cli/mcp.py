"""`runhook mcp`: the calls of the API as tools for a language model, over the Model Context Protocol."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final

import typer

from receiver.cli.client import Client
from receiver.cli.options import Host
from receiver.cli.output import warn
from receiver.cli.parameters import with_client
from receiver.cli.profiles import checked_url
from receiver.config.variables import process_variables
from receiver.errors import NotStarted, UsageError

if TYPE_CHECKING:
    from receiver.mcp.tools import RunSubmitter

# The scopes that a model gets only by --allow.
_ALLOWED: Final = ("operate", "submit")
_SHORTEST_TOKEN: Final = 16


@with_client
def mcp(
    client: Client,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="SCOPE", help="Add tools that change something: operate, submit; repeatable."),
    ] = None,
    http: Annotated[
        int | None,
        typer.Option("--http", metavar="PORT", min=0, max=65535, help="Serve over HTTP; 0: any free port."),
    ] = None,
    host: Host = "127.0.0.1",
    submit_url: Annotated[
        str | None,
        typer.Option("--submit-url", metavar="URL", help="URL of the submit API, if the JSON API has its own port."),
    ] = None,
) -> None:
    """Serve Runhook's tools to a language model over MCP; with --allow also tools that change something.

    It serves one client on standard input and output. With --http it serves clients that send the token
    RUNHOOK_MCP_TOKEN.
    """
    scopes = _scopes(allow or [])
    if not find_spec("mcp"):
        raise NotStarted("the MCP SDK is not installed: pip install 'runhook[mcp]'")
    from receiver.mcp import server as serving
    from receiver.mcp.tools import instructions, tools

    with ExitStack() as stack:
        found = tools(client, scopes, _submitter(client, scopes, submit_url, stack))
        server = serving.server_of(found, instructions(found, client.where))
        if http is None:
            client.announce = True
            serving.run_stdio(server)
        else:
            serving.run_http(server, host, http, _token)


def _scopes(allow: list[str]) -> list[str]:
    scopes = [part.strip() for each in allow for part in each.split(",") if part.strip()]
    if unknown := sorted(set(scopes) - set(_ALLOWED)):
        raise UsageError(f"--allow {unknown[0]}: must be {' or '.join(_ALLOWED)}; reading needs no --allow")
    return scopes


def _submitter(client: Client, scopes: list[str], submit_url: str | None, stack: ExitStack) -> RunSubmitter | None:
    """Return what submits runs, if that is allowed. Raises UsageError without a remote service."""
    if "submit" not in scopes:
        return None
    from receiver.cli.remote import RemoteClient

    if not isinstance(client, RemoteClient):
        raise UsageError("--allow submit needs a service: name it with --url, --profile or RUNHOOK_URL")
    if submit_url is None:
        return client
    submitter = RemoteClient(replace(client.service, url=checked_url("--submit-url", submit_url)))
    stack.callback(submitter.close)
    return submitter


def _token() -> str:
    """Return the token of HTTP clients; a new one, which is printed, if none is set. Raises UsageError."""
    if token := process_variables().text("RUNHOOK_MCP_TOKEN"):
        if len(token) < _SHORTEST_TOKEN:
            raise UsageError(f"RUNHOOK_MCP_TOKEN: must have at least {_SHORTEST_TOKEN} characters")
        return token
    token = secrets.token_urlsafe(24)
    warn(f"clients need the header Authorization: Bearer {token}")
    return token
