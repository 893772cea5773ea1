"""`runhook serve`: the web process."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from receiver.config.models import Config, load
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.runtime.process import started
from receiver.telemetry import logs

BACKLOG = 2048
LEAVE_WITHIN = 1.0
"""Seconds that the process takes to end at the most, once all is answered, written and closed."""
STOP_TIMEOUT = 5
"""Seconds that requests in flight have to end when the process is stopped."""


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    config: Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")] = None,
) -> None:
    """Run the receiver: take webhooks, keep their events, answer."""
    logs.set_up()
    settings = Settings.from_env(config=config, data=data)
    run(settings, load(settings.config, settings.environ), host, port)


def run(settings: Settings, config: Config, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; returns when all that was accepted has been answered. Raises NotStarted."""
    import uvicorn

    from receiver.submit.api import submit
    from receiver.web import http_protocol
    from receiver.web.app import PARTS, check_at_start, create_app
    from receiver.web.metrics import metrics

    listener = _listen(host, port)
    promise = check_at_start(settings, config)
    app = create_app(settings, config, [*PARTS, metrics, submit])
    server = _server(
        app, uvicorn.Config(app, **http_protocol.options(timeout_graceful_shutdown=STOP_TIMEOUT, backlog=BACKLOG))
    )
    lines = [
        f"listening on http://{_shown(host)}:{listener.getsockname()[1]}",
        f"sources: {', '.join(f'/webhooks/{name}' for name in config.sources)}",
        *(f"{name} = {value}" for name, value in settings.summary().items()),
        promise,
    ]
    if warning := config.unproven(settings.skyvern_base_url, settings.public_url):
        lines.append(f"WARNING: {warning}")
    for line in lines:
        sys.stderr.write(f"runhook: {line}\n")
    started()
    server.run(sockets=[listener])
    if not server.started:
        raise NotStarted("the receiver did not start; the line above says why")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = "the port is in use" if error.errno == 98 else str(error.strerror or error).lower()
        raise NotStarted(f"can't listen on {_shown(host)}:{port}: {reason}; choose another with --port") from None
    listener.set_inheritable(False)
    return listener


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _server(app: Any, config: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's server, except that a stop that was asked for is a success: stock raises the signal again; that
        the application hears of the stop before it is waited for; and that no thread keeps the process for ever: one
        that asks a ledger that hangs comes back with the ledger, and Python waits for it."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.stop()
            await super().shutdown(sockets)
            leave = threading.Timer(LEAVE_WITHIN, os._exit, (0,))
            leave.daemon = True
            leave.start()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals():
                yield
                self._captured_signals.clear()

    return Server(config)
