"""All checks, in the order in which an operator would fix the problems."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from handlers import SinkError, registry
from handlers.contract import Sink
from handlers.support.daemon_pool import in_thread
from handlers.support.wording import size
from receiver import __version__
from receiver.checks import public_url, servers
from receiver.checks.finding import Finding
from receiver.checks.problem import REMEDIES
from receiver.checks.problems import find
from receiver.checks.report import DiskReport, StatusReport
from receiver.checks.survey import survey
from receiver.config.loader import load
from receiver.config.models import Config, SourceConfig
from receiver.config.settings import Settings
from receiver.delivery.sink_services import SourceServices
from receiver.domain.counting import counted
from receiver.domain.durations import ago
from receiver.domain.signature import verify
from receiver.errors import ConfigError
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

# Files that must still fit: the spool, the quarantine and mirrored runs make many.
_FEWEST_INODES: Final = 10_000
# Seconds that the checks of all sinks have together; one that hangs is left behind.
PATIENCE: Final = 10.0
# Problems of processes, and the check that each is part of.
_OF_PROCESSES: Final = {
    **dict.fromkeys(("part_missing", "part_suspended", "part_stuck", "part_silent", "part_unknown"), "parts"),
    **dict.fromkeys(("worker_split", "task_failing"), "parts"),
    "versions_differ": "versions",
    **dict.fromkeys(("config_old", "configs_differ"), "host"),
    "clock_skew": "host.clock",
}
# What is tried of the quarantine: requests, seconds since they came, and bytes of their bodies.
MOST: Final = 200
RECENT: Final = 7 * 86_400.0
MOST_BYTES: Final = 64 << 20


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield each finding as soon as it is known. Changes nothing. Raises ConfigError for a wrong DATABASE_URL."""
    report = survey(settings)
    config = _config(settings)
    yield from _of_config(report)
    yield from servers.of_redis(settings, report.redis)
    yield from servers.of_ledger(settings, report.ledger)
    yield from of_hosts(report)
    yield from of_disk(report.disk)
    if config is not None:
        no_webhooks = config.no_webhooks_warning(settings.skyvern_base_url, settings.public_url)
        base = settings.skyvern_base_url
        yield from public_url.examine(settings.public_url, list(config.sources), no_webhooks, base)
        yield from of_quarantine(settings.data, config.sources, report.now)
        yield from of_sinks(config, settings.skyvern_base_url)


def _config(settings: Settings) -> Config | None:
    try:
        return load(settings.config, settings.environ)
    except (ConfigError, OSError):
        return None


def _of_config(report: StatusReport) -> Iterator[Finding]:
    for line in report.config_problems:
        yield Finding("config", line, "fix it; `runhook check` lists all errors. Checks that depend on it were skipped")
    for line in report.warnings:  # not report.advice: that is of PUBLIC_URL, which is examined
        yield Finding("config", line, REMEDIES["config_doubtful"], note=True)
    if not report.config_problems and not report.warnings:
        yield Finding("config", f"{report.config_file} is valid")


def of_hosts(report: StatusReport) -> Iterator[Finding]:
    """Yield the processes of each host with recent heartbeats, and what `runhook status` finds wrong with them."""
    yield Finding("versions", f"Runhook {__version__} on Python {platform.python_version()}")
    running = [each for each in report.processes if each.state in ("running", "stuck")]
    for host in sorted({each.beat.host for each in running}):
        theirs = [each.beat for each in running if each.beat.host == host]
        roles, versions = ({getattr(each, name) for each in theirs} for name in ("role", "version"))
        yield Finding("host", f"{host} runs {', '.join(sorted(roles))} of {', '.join(sorted(versions))}")
    for problem in find(report):
        if check := _OF_PROCESSES.get(problem.code):
            yield Finding(check, problem.what, problem.todo, problem.note)


def of_disk(report: DiskReport) -> Iterator[Finding]:
    """Yield what is found of the data directory: room, inodes, and who may read it."""
    if report.trouble:
        yield Finding("disk", f"{report.directory}: {report.trouble}", REMEDIES["disk_unreadable"])
        return
    reserve = report.reserve or 0
    if report.free is not None:
        short = report.free < 2 * reserve
        yield Finding(
            "disk.free",
            f"{report.directory} has {size(report.free)} free; spool.reserve_bytes keeps {size(reserve)}",
            "free disk space: below the reserve, webhooks get 503 while Redis is down or embedded" if short else "",
        )
    status = os.statvfs(report.directory)
    if status.f_files:  # some file systems have no such limit
        few = status.f_favail < _FEWEST_INODES
        yield Finding("disk.inodes", f"room for {status.f_favail} more files", "remove some files there" if few else "")
    mode = Path(report.directory).stat().st_mode & 0o777
    yield Finding(
        "disk.mode",
        f"{report.directory} has mode {mode:04o}",
        f"chmod 700 {report.directory}: it contains bodies and secrets" if mode & 0o077 else "",
    )


def of_sinks(config: Config, default_base: str, patience: float = PATIENCE) -> Iterator[Finding]:
    """Yield the result of each sink's own check, which sends nothing.

    `default_base`: the address of Skyvern's API, for sources that name none. `patience`: see PATIENCE.
    """
    services = SourceServices(config, default_base)
    asked: list[tuple[str, Sink[Any], Future[str]]] = []
    for name, chosen in config.sinks.items():
        sink = registry.build(name, chosen.type, chosen.options, services)
        asked.append((name, sink, in_thread(f"check-{name}", sink.check)))
    until = time.monotonic() + patience
    for name, sink, answer in asked:
        todo = f"fix its options or its server; `runhook sink test {name}` sends a sample"
        try:
            said = answer.result(max(0.0, until - time.monotonic()))
            what, todo = said or f"has no check that sends nothing; `runhook sink test {name}` sends a sample", ""
        except SinkError as error:
            what = str(error)
        except TimeoutError:
            what = f"no answer within {patience:g} s"
        except Exception as error:  # noqa: BLE001 - a sink of a third party
            what, todo = f"{type(error).__name__} in the sink's code", "report it to the sink's author"
        yield Finding(f"sink {name}", what, todo)
        if answer.done():
            sink.close()


def of_quarantine(data: Path, sources: Mapping[str, SourceConfig], now: float, most: int = MOST) -> Iterator[Finding]:
    """Yield, for each source to which requests with a wrong signature came, whose secret fits them."""
    store = Quarantine(data / "quarantine", 0, 0)
    recent = [each for each in reversed(store.list()) if now - each.at < RECENT][:most]
    fits: Counter[tuple[str, str]] = Counter()
    newest: dict[str, float] = {}
    left = MOST_BYTES
    for refused in recent:
        left -= refused.size
        if left < 0:
            break
        with suppress(OSError):  # it was dropped meanwhile
            fits[refused.source, _signer(refused, store.body(refused), sources)] += 1
            newest.setdefault(refused.source, refused.at)
    for (source, signer), count in sorted(fits.items()):
        yield _finding(source, signer, count, now - newest[source], is_configured=source in sources)
    if not fits:
        yield Finding("signatures", "no requests in quarantine from the last 7 days")


def _signer(refused: QuarantinedRequest, body: bytes, sources: Mapping[str, SourceConfig]) -> str:
    """Return the source one of whose secrets has signed the request, its own first; "" for none."""
    for name in sorted(sources, key=lambda name: name != refused.source):
        if verify(body, refused.signature, sources[name].signing_secrets):
            return name
    return ""


def _finding(source: str, signer: str, count: int, age: float, *, is_configured: bool) -> Finding:
    requests = counted(count, "request", "requests")
    what = f"{requests} to /webhooks/{source} failed the signature check, the newest {ago(age)} ago"
    if not signer:
        return Finding(
            "signatures",
            f"{what}, and no secret of any source matches",
            f"add the API key that submitted these runs to sources.{source}.secrets; Skyvern signs with the key of the "
            "call, or with the organization's newest. Then `runhook quarantine verify`; delete unknown "
            "requests with `runhook quarantine drop`",
        )
    if signer == source:
        return Finding(
            "signatures", f"{what}, but the current secrets match them", "`runhook quarantine verify` accepts them"
        )
    return Finding(
        "signatures",
        f"{what}, and a secret of the source {signer} matches",
        f"send them to /webhooks/{signer} (the callback URL in Skyvern)"
        + (
            f", or add that secret to sources.{source}.secrets, then `runhook quarantine verify`"
            if is_configured
            else ""
        ),
    )
