"""`runhook serve`: the web process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from receiver.cli.options import AdminPort, ConfigFile, DataDirectory, Host, Port, parse_admin_port, start
from receiver.config.advice import local_key, warnings
from receiver.config.fields import ListenAddress
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.database_url import check_database_url
from receiver.errors import NotStarted
from receiver.runtime.garbage import freeze_imports
from receiver.runtime.process import raise_file_limit
from receiver.runtime.working_flag import say_working
from receiver.web.server import BACKLOG, STOP_TIMEOUT, AdminListener, listen, make_server, url_of

if TYPE_CHECKING:
    from receiver.web.part import Context, WebPart


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    admin_port: AdminPort = "",
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Run the receiver: take webhooks, keep their events, answer."""
    settings, loaded = start(config, data)
    admin = parse_admin_port(admin_port) or loaded.server.admin
    run(settings, loaded, host, port, admin)


def run(settings: Settings, config: Config, host: str, port: int, admin: ListenAddress | None) -> None:
    """Serve until SIGTERM or SIGINT, and return when every accepted request has been answered. Raises NotStarted.

    `admin`: where to listen for operators as well.
    """
    import uvicorn

    from receiver.web import http_protocol
    from receiver.web.app import check_at_start, create_app
    from receiver.web.connections import Connections, bounds_for, split
    from receiver.web.health import health
    from receiver.web.webhook_protocol import WebhookProtocol

    check_database_url(settings.database_url)
    people = settings.console_password or settings.console_token or config.console.users or config.console.oidc
    if people:  # their sessions are signed with it: no webhook may be taken before it is sure that it can be written
        settings.master_secret(make=True)
    listener = listen(host, port)
    admin_listener = listen(*admin, option="--admin-port or server.admin") if admin else None
    promise = check_at_start(settings, config)
    app = create_app(settings, config, [health], late=late_parts, has_admin_port=admin is not None)
    all_bounds = bounds_for(raise_file_limit())
    bounds, admin_bounds = split(all_bounds) if admin else (all_bounds, None)
    connections = Connections(bounds)
    app.metrics.connections, app.metrics.connections_ended = connections.gauges, lambda: connections.ended
    protocol = partial(WebhookProtocol, webhooks=app.ingest)
    options = http_protocol.options(connections, protocol, timeout_graceful_shutdown=STOP_TIMEOUT, backlog=BACKLOG)
    second = None
    if admin_listener and admin_bounds:
        second = AdminListener(admin_listener, http_protocol.admin_protocols(Connections(admin_bounds)))
    server_config = uvicorn.Config(app, **options)
    app.trust_proxies(server_config.forwarded_allow_ips)
    server = make_server(app, server_config, second)
    assert app.late is not None
    app.late.on_failure, app.late.on_built = server.end, say_working
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
    doubtful = [*warnings(settings, config), *filter(None, [local_key(settings)])]
    for line in [*lines, *map(_as_warning, doubtful)]:
        _say(line)
    server.run(sockets=[listener])
    freeze_imports()  # else, after a stop while parts were built, Python would look through all of them at its end
    if app.late.failure is not None:
        raise app.late.failure
    if not server.started:
        raise NotStarted("the receiver did not start; the line above says why")


def late_parts() -> list[Callable[[Context], WebPart]]:
    """Import and return what is built when webhooks are taken already."""
    from receiver.api.http import api
    from receiver.console.http import console
    from receiver.submit.api import submit
    from receiver.web.metrics import metrics
    from receiver.web.parts import presence

    return [presence, metrics, api, console, submit, _ledger_at_start]


def _ledger_at_start(context: Context) -> WebPart:
    """Warn of a ledger that is away. Raises NotStarted for one that must not be used."""
    from receiver.cli.ledger_access import warning_at_start
    from receiver.web.part import WebPart

    if away := warning_at_start(context.settings, context.config):
        _say(_as_warning(away))
    freeze_imports()  # the last thing that is imported and built
    return WebPart()


def _as_warning(text: str) -> str:
    return f"WARNING: {text}"


def _say(line: str) -> None:
    sys.stderr.write(f"runhook: {line}\n")
