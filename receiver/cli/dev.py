"""`runhook dev`: everything on one machine, in one terminal."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from handlers.support.url import hide_password
from receiver.checks.config import warnings
from receiver.cli.options import AdminPort, ConfigFile, DataDirectory, Host, WatchSince, parse_admin_port, parse_time
from receiver.config.dev_session import DevSession, SessionFile
from receiver.config.fields import LOOPBACK, ListenAddress
from receiver.config.loader import load
from receiver.config.models import Config
from receiver.config.settings import Settings, new_local_key
from receiver.config.variables import OPTION, replace_environment
from receiver.config.yaml_file import read
from receiver.errors import NotStarted
from receiver.runtime.data_folder import secure
from receiver.telemetry import logs
from receiver.web.server import display_host, listen

if TYPE_CHECKING:
    from receiver.dev.tunnel import Tunnel
    from receiver.runtime.supervisor import Program, Supervisor

# ANSI colours of the programs' names.
_COLOURS: Final = (36, 33, 32, 35, 34, 31)
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - to be recognized
# Seconds after which `dev` prints why it is not ready.
UNREADY_FOR = 4.0
# Maximum seconds to wait for a ledger that is unavailable.
PATIENCE: Final = 3.0
# Seconds that each program has to end after Ctrl-C; the worker's own children a little less.
STOP_TIMEOUT = 8.0


def dev(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the receiver.")] = 8000,
    host: Host = "127.0.0.1",
    admin_port: AdminPort = "",
    since: WatchSince = "",
    tunnel: Annotated[
        bool,
        typer.Option(
            "--tunnel",
            help="Give the receiver a public URL with cloudflared, ngrok or tailscale, the first of them on PATH, and"
            " use it as PUBLIC_URL. Only webhooks and the submit API are reached there.",
        ),
    ] = False,
    data: DataDirectory = None,
    config: ConfigFile = None,
) -> None:
    """Run receiver, worker and clock together, with their own Valkey unless REDIS_URL is set. Ctrl-C stops all."""
    from receiver.dev.tunnel import Tunnel
    from receiver.ingest import redis_settings
    from receiver.runtime.supervisor import Supervisor, program

    parse_time(since)  # a wrong one is an error of this command
    settings = Settings.from_env(config=config, data=data, join=False)
    read(settings.config, settings.environ)  # raises before anything is created: it may be the wrong folder
    logs.set_up(settings.log_level, settings.log_format)
    secure(settings.data)
    settings = settings.with_local_key()
    loaded = load(settings.config, settings.environ)
    key = settings.environ.text("SKYVERN_API_KEY") if settings.local_key else new_local_key()
    environ = {**settings.environ.replaced("RUNHOOK_CONFIG", str(settings.config), OPTION), "RUNHOOK_DEV_KEY": key}
    settings = settings.model_copy(update={"dev_key": key})
    if tunnel and not admin_port and loaded.server.admin is None:  # else the internet reaches what is for operators
        with listen(LOOPBACK, 0) as free:
            admin_port = str(free.getsockname()[1])
    admin = parse_admin_port(admin_port) or loaded.server.admin
    # Before anything is started.
    with listen(host, port), listen(*admin, option="--admin-port or server.admin") if admin else nullcontext():
        pass
    _check_ledger(settings, loaded)
    url = f"http://{display_host(LOOPBACK if host in _ANY else host)}:{port}"
    pages = f"http://{display_host(admin.host)}:{admin.port}" if admin else url
    token = settings.console_token or secrets.token_urlsafe(24)
    # Whether only this machine reaches the console: then this start prints a link that signs in.
    private = admin.host in _LOOPBACK and bool(admin.port) if admin else host in _LOOPBACK
    serve = ["serve", "--host", host, "--port", str(port), *(["--admin-port", admin_port] if admin_port else ())]
    worker = ["worker", "--stop-timeout", str(STOP_TIMEOUT - 2), "--patience", f"{PATIENCE:g}"]
    clock = ["clock", *(["--since", since] if since else ())]
    programs = [
        program("serve", partial(_runhook, serve, environ, token if private else ""), STOP_TIMEOUT, piped=True),
        program("worker", partial(_runhook, worker, environ), STOP_TIMEOUT, piped=True),
        program("clock", partial(_runhook, clock, environ), STOP_TIMEOUT, piped=True),
    ]
    session = DevSession(url, pages, key, settings.local_key)
    hidden = {"RUNHOOK_CONFIG": ""} if settings.packaged_config else {}  # each command finds that one
    with ExitStack() as stack:
        file = SessionFile()
        stack.callback(file.remove)
        if tunnel:
            public = Tunnel(url)
            stack.callback(public.stop)
            programs.append(_start_tunnel(public, environ, lambda: file.write(session, {**environ, **hidden})))
            settings = settings.model_copy(update={"public_url": public.url})
        file.write(session, {**environ, **hidden})
        if settings.embedded_redis:
            programs.insert(0, _start_valkey(settings.data, stack))
        promise = redis_settings.check_at_start(
            settings.redis_url,
            loaded.server.max_body,
            loaded.server.accept_weaker_durability,
            str(settings.config),
            away=partial(_no_redis, settings),
        )
        say = Lines(sys.stdout, [each.name for each in programs])
        supervisor = Supervisor(programs, say, strict=True)
        _import_all(loaded)

        def on_ready() -> None:
            console = f"console: {pages}/console/login?token={token} (valid once)" if private else ""
            lines = summary(settings, loaded, host, port, str(promise), admin)
            for line in [*lines, *filter(None, [file.trouble, console])]:
                say("runhook", line)

        supervisor.run(Readiness(host, port, supervisor.starting, partial(say, "runhook")), on_ready)


def _start_valkey(data: Path, stack: ExitStack) -> Program:
    """Start the embedded Valkey, which `stack` ends, and return it as a program. Raises NotStarted."""
    from receiver.dev.valkey import EmbeddedValkey
    from receiver.runtime.supervisor import Program

    valkey = EmbeddedValkey(data)
    stack.callback(valkey.stop)
    valkey.start()
    return Program("valkey", valkey.launch, why=lambda _: valkey.why(), last=True, process=valkey.process)


def _start_tunnel(tunnel: Tunnel, environ: dict[str, str], on_change: Callable[[], None]) -> Program:
    """Start the tunnel, put its URL into `environ`, and return it as a program. Raises NotStarted.

    After a restart the tunnel may have another URL: `on_change` is called, and serve, worker and clock restart.
    """
    from receiver.runtime.supervisor import Program

    def take(line: str, supervisor: Supervisor) -> None:
        if tunnel.take(line):
            environ["PUBLIC_URL"] = tunnel.url
            on_change()
            supervisor.say(
                "runhook",
                f"public URL changed to {tunnel.url}: serve, worker and clock restart with it. Agents that post to the "
                "old one: run `runhook connect --apply`",
            )
            supervisor.renew(("serve", "worker", "clock"))

    tunnel.start()
    environ["PUBLIC_URL"] = tunnel.url
    environ.pop("PUBLIC_URL_FILE", None)
    return Program("tunnel", tunnel.launch, why=tunnel.why, take=take, process=tunnel.process)


def _check_ledger(settings: Settings, config: Config) -> None:
    """Raise NotStarted for a ledger that worker and clock cannot use: they would end after the receiver is ready."""
    from receiver.ledger import Ledger
    from receiver.ledger.migrate import await_schema

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    with closing(Ledger(settings.database_url, require_durability=config.durable_ledger)) as ledger:
        await_schema(ledger, PATIENCE, wait, create=False)


def _import_all(config: Config) -> None:
    """Import what the programs need, so that they share it."""
    from receiver import clock, worker  # noqa: F401
    from receiver.cli import clock as clock_command  # noqa: F401
    from receiver.cli import serve

    serve.web_components()
    logs.prepare()
    worker.preload(config)


def _runhook(arguments: Sequence[str], environ: Mapping[str, str], console_token: str = "") -> None:
    """In a fork: be the command `runhook` with these arguments and this environment, as it is now: a tunnel may have
    changed it since the first start. `console_token`: added to it, if not empty."""
    replace_environment({**environ, **({"RUNHOOK_CONSOLE_TOKEN": console_token} if console_token else {})})
    sys.argv = ["runhook", *arguments]
    import_module("receiver.cli").main()


def _no_redis(settings: Settings, reason: str) -> NoReturn:
    where = hide_password(settings.redis_url)
    hint = "start it, or unset REDIS_URL for the embedded Valkey"
    raise NotStarted(f"Redis can't be used ({where}): {reason.rstrip('.')}; {hint}")


class Readiness:
    """Polls whether the receiver can store events and all programs work. After UNREADY_FOR each new reason is printed.

    `starting`: returns the names of the programs that do not work yet. `say`: prints a line.
    """

    def __init__(self, host: str, port: int, starting: Callable[[], list[str]], say: Callable[[str], None]) -> None:
        self._address = (host if host not in _ANY else "localhost", port)
        self._starting = starting
        self._say = say
        self._since = time.monotonic()
        self._said = ""

    def __call__(self) -> bool:
        reason = self._reason()
        if reason and reason != self._said and time.monotonic() - self._since > UNREADY_FOR:
            self._said = reason
            self._say(f"not ready: {reason}")
        return not reason

    def _reason(self) -> str:
        """Return why it is not ready, or ""."""
        connection = http.client.HTTPConnection(*self._address, timeout=1.0)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            if answer.status == 200:
                names = self._starting()
                return f"waiting for {' and '.join(names)}" if names else ""
            return str(json.loads(answer.read())["error"]["message"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return "the receiver does not answer"
        finally:
            connection.close()


def summary(
    settings: Settings, config: Config, host: str, port: int, durability: str, admin: ListenAddress | None = None
) -> list[str]:
    """Return lines about what is running and where its data is."""
    from receiver.dev.valkey import find_server

    sinks = ", ".join(config.sinks) or "none"
    redis = f"{find_server().name} in redis/" if settings.embedded_redis else hide_password(settings.redis_url)
    lines = [f"ready: http://{display_host(host)}:{port}/webhooks/{source}" for source in config.sources]
    if settings.public_url:
        lines.append(f"public URL: {settings.public_url}")
    if admin and admin.port:  # a free one is in the line of serve
        lines.append(
            f"admin port: http://{display_host(admin.host)}:{admin.port} (/metrics, /readyz?all, /api/v1, /console)"
        )
    lines += [
        f"config: {settings.config}{' (ships with Runhook)' if settings.packaged_config else ''}, sinks: {sinks}",
        durability,
        f"data: {settings.data}: {redis}; ledger {hide_password(settings.database_url)}; spool/, quarantine/",
    ]
    if settings.local_key:
        lines.append(
            "SKYVERN_API_KEY is not set: `runhook trigger` sends samples, signed with a key of this machine"
            + ("" if settings.skyvern_base_url else ". Set it to watch your Skyvern account and to submit runs")
        )
    if watched := _watched(settings, config):
        lines.append(watched)
    lines += [f"WARNING: {warning}" for warning in warnings(settings, config)]
    return [*lines, "Ctrl-C stops everything"]


def _watched(settings: Settings, config: Config) -> str:
    """Return how results come from the accounts that are watched; "" without any."""
    found = [source.api(settings.skyvern_base_url) for source in config.sources.values() if source.watch]
    bases = sorted({api[0] for api in found if api is not None})
    if not bases or not config.reconcile.enabled:
        return ""
    reconcile = config.reconcile.paced(webhooks=settings.waits_for_webhooks)
    within = math.ceil((reconcile.watch_every + reconcile.webhook_grace) / 30) * 30
    sooner = "" if settings.public_url else "`runhook dev --tunnel`, then "
    return (
        f"watching the account at {' and '.join(bases)}: results are here within about {within} s of their run's end. "
        f"To get them in seconds: {sooner}`runhook connect --apply`"
    )


class Lines:
    """Prints the lines of several programs to a console, each after its program's name.

    `colour`: whether names are coloured; None: on a terminal."""

    def __init__(self, console: IO[str], names: Sequence[str], *, colour: bool | None = None) -> None:
        self._console = console
        self._colour = console.isatty() if colour is None else colour
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
        self._width = max(len(name) for name in [*names, "runhook"])

    def __call__(self, name: str, text: str) -> None:
        """Print one line under `name`."""
        label = name.ljust(self._width)
        if self._colour:
            label = f"\x1b[{self._colours.get(name, 1)}m{label}\x1b[0m"
        with contextlib.suppress(OSError):  # the terminal is gone; the programs continue
            self._console.write(f"{label} | {text}\n")
            self._console.flush()
