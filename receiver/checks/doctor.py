"""Deep checks of hosts, the data directory, the quarantine and the sinks."""

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
from receiver.checks.finding import Finding
from receiver.checks.report import StatusReport
from receiver.config.models import SourceConfig
from receiver.domain.counting import counted
from receiver.domain.durations import ago
from receiver.domain.signature import verify
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

# Files that must still fit: the spool, the quarantine and mirrored runs make many.
_FEWEST_INODES: Final = 10_000
# Seconds that the checks of all sinks have together; one that hangs is left behind.
PATIENCE: Final = 10.0
# What is tried of the quarantine: requests, seconds since they came, and bytes of their bodies.
MOST: Final = 200
RECENT: Final = 7 * 86_400.0
MOST_BYTES: Final = 64 << 20


def of_config(report: StatusReport) -> Iterator[Finding]:
    """Yield a config file without errors and warnings."""
    if not report.config_problems and not report.warnings:
        yield Finding("config", f"{report.config_file} is valid")


def of_hosts(report: StatusReport) -> Iterator[Finding]:
    """Yield the release here, and the processes of each host with recent heartbeats."""
    yield Finding("versions", f"Runhook {__version__} on Python {platform.python_version()}")
    running = [each.beat for each in report.processes if each.state in ("running", "stuck")]
    for host in sorted({beat.host for beat in running}):
        theirs = [beat for beat in running if beat.host == host]
        roles, versions = sorted({beat.role for beat in theirs}), sorted({beat.version for beat in theirs})
        yield Finding("host", f"{host} runs {', '.join(roles)} of {', '.join(versions)}")


def of_disk(report: StatusReport) -> Iterator[Finding]:
    """Yield the room, inodes and mode of a readable data directory."""
    disk, reserve = report.disk, report.disk.reserve or 0
    if disk.trouble:
        return
    if disk.free is not None and disk.free >= 2 * reserve:
        what = f"{disk.directory} has {size(disk.free)} free; spool.reserve_bytes keeps {size(reserve)}"
        yield Finding("disk.free", what)
    status = os.statvfs(disk.directory)
    if status.f_files:  # some file systems have no such limit
        few = status.f_favail < _FEWEST_INODES
        yield Finding("disk.inodes", f"room for {status.f_favail} more files", "remove some files there" if few else "")
    mode = Path(disk.directory).stat().st_mode & 0o777
    yield Finding(
        "disk.mode",
        f"{disk.directory} has mode {mode:04o}",
        f"chmod 700 {disk.directory}: it contains bodies and secrets" if mode & 0o077 else "",
    )


def of_quarantine(report: StatusReport, most: int = MOST) -> Iterator[Finding]:
    """Yield, for each source to which requests with a wrong signature came, whose secret fits them."""
    if report.config is None:
        return
    sources, now = report.config.sources, report.now
    store = Quarantine(Path(report.disk.directory) / "quarantine", 0, 0)
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


def of_sinks(report: StatusReport, patience: float = PATIENCE) -> Iterator[Finding]:
    """Yield the result of each sink's own check, which sends nothing. `patience`: see PATIENCE."""
    from receiver.delivery.sink_services import SourceServices  # with an HTTP client, which no other check needs

    if report.config is None:
        return
    services = SourceServices(report.config, report.settings.skyvern_base_url)
    asked: list[tuple[str, Sink[Any], Future[str]]] = []
    for name, chosen in report.config.sinks.items():
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
