"""`runhook serve`: the web process."""

from __future__ import annotations

import sys

from receiver.cli.ledger_access import warning_at_start
from receiver.cli.options import AdminPort, ConfigFile, DataDirectory, Host, Port, load_config, parse_admin_port
from receiver.config.advice import local_key, warnings
from receiver.config.fields import ListenAddress
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.runtime.data_folder import secure
from receiver.runtime.process import freeze_imports, raise_file_limit
from receiver.telemetry import logs
from receiver.web.server import BACKLOG, STOP_TIMEOUT, AdminListener, listen, make_server, url_of


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    admin_port: AdminPort = "",
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Run the receiver: take webhooks, keep their events, answer."""
    logs.set_up()
    settings, loaded = load_config(config, data)
    admin = parse_admin_port(admin_port) or loaded.server.admin
    secure(settings.data)
    run(settings, loaded, host, port, admin)


def run(settings: Settings, config: Config, host: str, port: int, admin: ListenAddress | None) -> None:
    """Serve until SIGTERM or SIGINT, and return when every accepted request has been answered. Raises NotStarted.

    `admin`: where to listen for operators as well.
    """
    import uvicorn

    from receiver.api.http import api
    from receiver.console.http import console
    from receiver.submit.api import submit
    from receiver.web import http_protocol
    from receiver.web.app import check_at_start, create_app
    from receiver.web.connections import Connections, bounds_for, split
    from receiver.web.health import health
    from receiver.web.metrics import metrics
    from receiver.web.parts import presence

    listener = listen(host, port)
    admin_listener = listen(*admin, option="--admin-port or server.admin") if admin else None
    promise = check_at_start(settings, config)
    away = warning_at_start(settings, config)
    app = create_app(
        settings, config, [health, presence, metrics, api, console, submit], has_admin_port=admin is not None
    )
    all_bounds = bounds_for(raise_file_limit())
    bounds, admin_bounds = split(all_bounds) if admin else (all_bounds, None)
    connections = Connections(bounds)
    app.metrics.connections, app.metrics.connections_ended = connections.gauges, lambda: connections.ended
    options = http_protocol.options(connections, timeout_graceful_shutdown=STOP_TIMEOUT, backlog=BACKLOG)
    second = None
    if admin_listener and admin_bounds:
        second = AdminListener(admin_listener, http_protocol.admin_protocols(Connections(admin_bounds)))
    server = make_server(app, uvicorn.Config(app, **options), second)
    lines = [
        f"listening on {url_of(listener)}",
        *(
            [f"admin port: {url_of(admin_listener)} (/metrics, /readyz?all, /api/v1, /console)"]
            if admin_listener
            else ()
        ),
        f"sources: {', '.join(f'/webhooks/{name}' for name in config.sources)}",
        *(f"{name} = {value}" for name, value in settings.summary().items()),
        f"connections: {bounds.total} at the most",
        promise,
    ]
    doubtful = [*warnings(settings, config), *filter(None, [local_key(settings), away])]
    lines += [f"WARNING: {warning}" for warning in doubtful]
    for line in lines:
        sys.stderr.write(f"runhook: {line}\n")
    freeze_imports()
    server.run(sockets=[listener])
    if not server.started:
        raise NotStarted("the receiver did not start; the line above says why")
