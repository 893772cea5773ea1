"""`runhook serve`: the web process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from receiver.checks.config import warnings
from receiver.cli.options import AdminPort, ConfigFile, DataDirectory, Host, Port, load_config, parse_admin_port
from receiver.config.fields import ListenAddress
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.config.skyvern_key import local_key
from receiver.domain.database_url import check_database_url
from receiver.errors import NotStarted
from receiver.runtime.child import report_ready
from receiver.runtime.data_folder import secure
from receiver.runtime.process import freeze_imports, raise_file_limit, relax_gc_for_imports
from receiver.runtime.reload import Reload, inherited_sockets
from receiver.telemetry import logs
from receiver.web.server import BACKLOG, STOP_TIMEOUT, listen, url_of

if TYPE_CHECKING:
    from receiver.web.component import Context, WebComponent


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    admin_port: AdminPort = "",
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Run the receiver: accept webhooks, store their events, respond."""
    settings, loaded = load_config(config, data, alone=True)
    secure(settings.data)
    admin = parse_admin_port(admin_port) or loaded.server.admin

    def validate() -> None:
        settings, loaded = load_config(config, data)
        check_database_url(settings.database_url)
        changed = parse_admin_port(admin_port) or loaded.server.admin
        if changed and changed != admin:
            listen(*changed, option="server.admin").close()

    run(settings, loaded, host, port, admin, Reload(validate))


def run(
    settings: Settings,
    config: Config,
    host: str,
    port: int,
    admin: ListenAddress | None,
    reload: Reload | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and return when every accepted request has been answered. Raises NotStarted.

    `admin`: where to listen for operators as well. `reload`: at an accepted one, the process runs its command again.
    """
    relax_gc_for_imports(0)
    import uvicorn

    from receiver.cli.ledger_access import warning_at_start
    from receiver.web.app import check_at_start, create_app
    from receiver.web.component import ADMIN
    from receiver.web.protocol import Listening, connection_limit, options
    from receiver.web.uvicorn_server import AdminListener, WebServer

    check_database_url(settings.database_url)
    people = settings.console_password or settings.console_token or config.console.users or config.console.oidc
    if people:  # their sessions are signed with it: no webhook may be taken before it is sure that it can be written
        settings.master_secret(make=True)
    inherited = inherited_sockets()
    public = inherited.get("public") or listen(host, port)
    admin_socket = _listen_for_operators(admin, inherited.get("admin")) if admin else None
    promise = check_at_start(settings, config)
    app = create_app(settings, config, web_components(), has_admin_port=admin is not None)
    doubtful = [*warnings(settings, config), *filter(None, [local_key(settings), warning_at_start(settings, config)])]
    limit = connection_limit(raise_file_limit())
    admin_limit = min(1024, limit // 4) if admin else 0
    listener, operators = Listening(limit - admin_limit), Listening(admin_limit, {ADMIN: True})
    app.metrics.connections, app.metrics.connections_ended = listener.gauges, lambda: listener.ended
    app.metrics.url = url_of(public)
    server_config = uvicorn.Config(app, **options(listener, timeout_graceful_shutdown=STOP_TIMEOUT, backlog=BACKLOG))
    listener_of_operators = AdminListener(admin_socket, operators) if admin_socket else None
    server = WebServer(server_config, app.stop, listener_of_operators, reload)
    lines = [
        f"listening on {app.metrics.url}",
        *([f"admin port: {url_of(admin_socket)} (/metrics, /readyz?all, /api/v1, /console)"] if admin_socket else ()),
        f"sources: {', '.join(f'/webhooks/{name}' for name in config.sources)}",
        *(f"{name} = {value or 'not set'}" for name, value in settings.summary().items()),
        f"connections: {listener.limit} at most",
        promise,
    ]
    for line in [*lines, *(f"WARNING: {each}" for each in doubtful)]:
        logs.say(line)
    freeze_imports()
    report_ready()
    server.run(sockets=[public])
    if not server.started:
        raise NotStarted("the receiver did not start; the line above says why")
    server.leave()


def _listen_for_operators(address: ListenAddress, inherited: socket.socket | None) -> socket.socket:
    """Return the socket of the admin port: that from before a reload, unless the address has changed."""
    if inherited is not None:
        if address.port in (0, inherited.getsockname()[1]):
            return inherited
        inherited.close()
    return listen(*address, option="--admin-port or server.admin")


def web_components() -> list[Callable[[Context], WebComponent]]:
    """Import and return everything that the receiver serves beside webhooks."""
    from receiver.api.http import api
    from receiver.console.http import console
    from receiver.submit.api import submit
    from receiver.web.health import health, presence
    from receiver.web.metrics import metrics

    return [health, presence, metrics, api, console, submit]
