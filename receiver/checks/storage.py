"""Checks of the data directory: room, permissions, spool and quarantine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from handlers.support.wording import size
from receiver.checks.finding import Finding, fault
from receiver.checks.processes import SILENT_NEWS, name_of
from receiver.checks.report import NEWS, StatusReport
from receiver.config.models import SourceConfig
from receiver.domain.counting import counted
from receiver.domain.durations import ago
from receiver.domain.liveness import RECEIVER, SeenProcess
from receiver.domain.signature import verify
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

# Fraction of spool.max_bytes above which the spool counts as nearly full.
SPOOL_FULL: Final = 0.8
# Files that must still fit: the spool, the quarantine and mirrored runs make many.
_FEWEST_INODES: Final = 10_000
# Wrongly signed requests within NEWS that are a problem even though good webhooks come.
REFUSED_MANY: Final = 3
# The newest requests in quarantine whose signatures are tried.
MOST: Final = 200


def _full(report: StatusReport) -> str:
    """Return why the data directory takes no events, or ""."""
    disk, reserve = report.disk, report.disk.reserve or 0
    if disk.free is not None and disk.free < reserve:
        return f"{disk.directory} has {size(disk.free)} free, less than spool.reserve_bytes ({size(reserve)})"
    if disk.spool_limit and disk.spool_bytes >= disk.spool_limit:
        return f"the spool has reached spool.max_bytes ({size(disk.spool_limit)})"
    return ""


def refusing(report: StatusReport) -> str:
    """Return why webhooks get 503 now, as a receiver reports it or as this machine's disk shows; else ""."""
    redis = report.redis
    unusable = redis.trouble or redis.weak or redis.inbox.trouble
    if (unusable or redis.embedded) and (full := _full(report)):
        return f"Redis cannot be used, and {full}" if unusable else full
    reasons = ((each, each.beat.details.get("refusing")) for each in report.processes if each.alive)
    return next((f"{name_of(each)}: {why}" for each, why in reasons if why), "")


def of_disk(report: StatusReport) -> Iterator[Finding]:
    """Yield why the data directory is unreadable, full or nearly full."""
    disk, full = report.disk, _full(report)
    if disk.trouble:
        yield fault("disk_unreadable", f"{disk.directory}: {disk.trouble}")
    if full and full not in refusing(report):
        yield fault("disk_full" if "reserve_bytes" in full else "spool_full", full)
    elif not full and disk.free is not None and disk.free < 2 * (disk.reserve or 0):
        yield fault("disk_low", f"{disk.directory} has {size(disk.free)} free")
    if not full and disk.spool_limit and disk.spool_bytes > SPOOL_FULL * disk.spool_limit:
        used = f"{size(disk.spool_bytes)} of {size(disk.spool_limit)} (spool.max_bytes)"
        yield fault("spool_full", f"the spool holds {used}")


def of_directory(report: StatusReport) -> Iterator[Finding]:
    """Yield the room, inodes and mode of a readable data directory."""
    disk, reserve = report.disk, report.disk.reserve or 0
    if disk.trouble:
        return
    if disk.free is not None and disk.free >= 2 * reserve:
        what = f"{disk.directory} has {size(disk.free)} free; spool.reserve_bytes keeps {size(reserve)}"
        yield Finding("disk.free", what)
    status = os.statvfs(disk.directory)
    if status.f_files:  # some file systems have no such limit
        what = f"room for {status.f_favail} more files"
        is_short = status.f_favail < _FEWEST_INODES
        yield fault("disk.inodes", what) if is_short else Finding("disk.inodes", what)
    mode = Path(disk.directory).stat().st_mode & 0o777
    what = f"{disk.directory} has mode {mode:04o}"
    yield fault("disk.mode", what, folder=disk.directory) if mode & 0o077 else Finding("disk.mode", what)


def of_spool(report: StatusReport) -> Iterator[Finding]:
    """Yield damaged files, and the spools of receivers that ended: their events wait until a receiver starts there.

    A spool is only a note once an operator has sent it since, or one whose data directory is unknown.
    """
    folder = f"{report.disk.directory}/spool"
    if report.disk.set_aside:
        files = counted(report.disk.set_aside, "damaged file of the spool was", "damaged files of the spool were")
        yield fault("spool_damaged", f"{files} set aside in {folder}")
    if report.disk.spool_left:
        left = f"holds up to {size(report.disk.spool_left)} of events of stopped receivers"
        yield fault("spool_left", f"{folder} {left}")

    def directory(each: SeenProcess) -> object:  # it may have been mounted on another host since
        return each.beat.details.get("data_id") or (each.beat.host, each.beat.details.get("data"))

    alive = {directory(each) for each in report.processes if each.alive}
    last: dict[object, SeenProcess] = {}
    for each in sorted(report.processes, key=lambda each: each.age):  # the last one of a directory reports its content
        if each.beat.role == RECEIVER and not each.alive:
            last.setdefault(directory(each), each)
    for place, each in last.items():
        if place in alive:
            continue
        events, spool = each.beat.details.get("spool_events"), f"{each.beat.details.get('data')}/spool"
        sends = report.ledger.spool_sent
        sent = max(sends.get("", 0.0), sends.get(str(each.beat.details.get("data_id", "")), 0.0))
        note = sent > report.now - each.age
        after = f"; a spool was sent {ago(report.now - sent)} ago" if note else ""
        if events:
            how = "was stopped" if each.beat.stopped else "is gone"
            contents = f"its spool held {counted(events, 'event', 'events')}, in {spool} on {each.beat.host}"
            yield fault("spool_left", f"{name_of(each)} {how}, and {contents}{after}", note=note)
        elif alive and each.state == "silent" and each.age < SILENT_NEWS:
            may = f"its spool on {each.beat.host} may hold acknowledged results, which no other receiver sends: {spool}"
            yield fault("spool_left", f"{name_of(each)} has been silent for {ago(each.age)}; {may}{after}", note=note)


def of_quarantine(report: StatusReport) -> Iterator[Finding]:
    """Yield how many requests with a wrong signature are in quarantine."""
    disk = report.disk
    if disk.quarantine:
        requests = counted(disk.quarantine, "request with a wrong signature is", "requests with a wrong signature are")
        newest = f", the newest {ago(report.now - disk.newest_refused)} old" if disk.newest_refused is not None else ""
        yield fault("quarantine", f"{requests} in quarantine{newest}", note=_is_stray(report))


def _is_stray(report: StatusReport) -> bool:
    """Return whether the requests in quarantine are old, or few among good webhooks: their sender is not Skyvern.

    Several, or one after the last good webhook, mean a wrong secret.
    """
    newest = report.disk.newest_refused
    if newest is None or report.now - newest >= NEWS:
        return True
    return (report.ledger.newest.webhook_at or 0.0) > newest and report.disk.refused_lately < REFUSED_MANY


def of_signatures(report: StatusReport, most: int = MOST) -> Iterator[Finding]:
    """Yield, for each source to which requests with a wrong signature came, whose secret matches them.

    Yields what `of_quarantine` does if the config cannot be used.
    """
    if report.config is None:
        yield from of_quarantine(report)
        return
    sources = report.config.sources
    store = Quarantine(Path(report.disk.directory) / "quarantine", 0, 0)
    counts: Counter[tuple[str, str]] = Counter()
    newest: dict[str, float] = {}
    for refused in store.list()[-most:]:
        with suppress(OSError):  # it was dropped meanwhile
            counts[refused.source, _signer(refused, store.body(refused), sources)] += 1
            newest[refused.source] = refused.at
    for (source, signer), count in sorted(counts.items()):
        age = ago(report.now - newest[source])
        what = f"{counted(count, 'request', 'requests')} to /webhooks/{source} failed the signature check, the newest"
        match, todo = _match(source, signer, source in sources)
        yield Finding("quarantine", f"{what} {age} ago, {match}", todo, _is_stray(report))
    if not counts:
        yield Finding("quarantine", "no requests in quarantine")


def _signer(refused: QuarantinedRequest, body: bytes, sources: Mapping[str, SourceConfig]) -> str:
    """Return the source one of whose secrets has signed the request, its own first; "" for none."""
    for name in sorted(sources, key=lambda name: name != refused.source):
        if verify(body, refused.signature, sources[name].signing_secrets):
            return name
    return ""


def _match(source: str, signer: str, is_configured: bool) -> tuple[str, str]:
    """Return whose secret matches requests to a source, and the fix. `signer`: a source, or ""."""
    secrets = f"sources.{source}.secrets"
    if not signer:
        todo = (
            f"add the API key that submitted these runs to {secrets}; Skyvern signs with the key of the call, or with "
        )
        todo += "the organization's newest. Then `runhook quarantine verify`; delete unknown requests with `runhook "
        return "and no secret of any source matches", f"{todo}quarantine drop`"
    if signer == source:
        return "but the current secrets match them", "`runhook quarantine verify` accepts them"
    todo = f"send them to /webhooks/{signer} (the callback URL in Skyvern)"
    if is_configured:
        todo += f", or add that secret to {secrets}, then `runhook quarantine verify`"
    return f"and a secret of the source {signer} matches", todo
