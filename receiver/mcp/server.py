"""Tools over the Model Context Protocol, on standard input and output or over HTTP. The only module that knows the SDK.

Over HTTP there are no sessions, so that clients continue after a restart.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import mcp_types as types
import orjson
import uvicorn
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver import __version__
from receiver.errors import RunhookError
from receiver.mcp.tools import ModelTool, error_text
from receiver.runtime.process import raise_file_limit
from receiver.web.protocol import Listening, connection_limit, options
from receiver.web.server import listen, url_of
from receiver.web.uvicorn_server import WebServer

PATH: Final = "/mcp"
# Bytes of a client's message.
MAX_BODY: Final = 1 << 20

log = logging.getLogger("runhook.mcp")


def server_of(tools: Sequence[ModelTool], instructions: str) -> Server[Any]:
    """Return a server that offers `tools`."""
    by_name = {tool.name: tool for tool in tools}
    listed = [
        types.Tool(
            name=tool.name,
            description=tool.description,
            input_schema=tool.schema,
            annotations=types.ToolAnnotations(
                read_only_hint=tool.reads,
                destructive_hint=not tool.reads and not tool.reversible,
                open_world_hint=not tool.reads,
            ),
        )
        for tool in tools
    ]

    async def on_list_tools(_: ServerRequestContext, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=listed)

    async def on_call_tool(_: ServerRequestContext, call: types.CallToolRequestParams) -> types.CallToolResult:
        tool = by_name.get(call.name)
        if tool is None:
            return _result(f"unknown tool {call.name[:100]}; known: {', '.join(by_name)}", failed=True)
        try:
            return _result(orjson.dumps(await tool.run(call.arguments or {})).decode())
        except RunhookError as error:
            return _result(error_text(error), failed=True)
        except Exception:
            log.exception("mcp.failed tool=%s", call.name)
            return _result("internal error; see the server log", failed=True)

    return Server(
        "runhook",
        version=__version__,
        instructions=instructions,
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
    )


def _result(text: str, *, failed: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=failed)


def run_stdio(server: Server[Any]) -> None:
    """Serve the client at standard input and output until it closes them."""

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    asyncio.run(serve())


def run_http(server: Server[Any], host: str, port: int, make_token: Callable[[], str]) -> None:
    """Serve clients until SIGTERM or SIGINT, with the receiver's limits on connections and requests.

    `make_token`: returns the token of clients; called once the server listens. Raises NotStarted if the address cannot
    be used.
    """
    listener = listen(host, port, "--http")
    token = make_token()
    sys.stderr.write(f"runhook: MCP at {url_of(listener)}{PATH}\n")
    limit = Listening(connection_limit(raise_file_limit()))
    config = uvicorn.Config(http_app(server, token), **options(limit, timeout_graceful_shutdown=2))
    WebServer(config).run(sockets=[listener])


def http_app(server: Server[Any], token: str) -> Starlette:
    """Return the application that serves clients with `token` at PATH."""
    # Pages in a browser do not have the token, whatever name they give this address.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=MAX_BODY,
        transport_security=security,
    )
    app.add_middleware(_TokenCheck, token=token)
    return app


class _TokenCheck:
    """Responds 401 to requests without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                response = PlainTextResponse("missing or wrong token", 401, {"www-authenticate": "Bearer"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
