"""`runhook serve`: the web process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from receiver.config.loader import load
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.runtime.process import freeze_imports
from receiver.telemetry import logs
from receiver.web.server import BACKLOG, STOP_TIMEOUT, display_host, listen, make_server


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
    """Serve until SIGTERM or SIGINT, and return when every accepted request has been answered. Raises NotStarted."""
    import uvicorn

    from receiver.submit.api import submit
    from receiver.web import http_protocol
    from receiver.web.app import check_at_start, create_app
    from receiver.web.health import health
    from receiver.web.metrics import metrics

    listener = listen(host, port)
    promise = check_at_start(settings, config)
    app = create_app(settings, config, [health, metrics, submit])
    server = make_server(
        app, uvicorn.Config(app, **http_protocol.options(timeout_graceful_shutdown=STOP_TIMEOUT, backlog=BACKLOG))
    )
    lines = [
        f"listening on http://{display_host(host)}:{listener.getsockname()[1]}",
        f"sources: {', '.join(f'/webhooks/{name}' for name in config.sources)}",
        *(f"{name} = {value}" for name, value in settings.summary().items()),
        promise,
    ]
    if warning := config.unproven(settings.skyvern_base_url, settings.public_url):
        lines.append(f"WARNING: {warning}")
    for line in lines:
        sys.stderr.write(f"runhook: {line}\n")
    freeze_imports()
    server.run(sockets=[listener])
    if not server.started:
        raise NotStarted("the receiver did not start; the line above says why")
