"""Read the state of config, stores, disk and processes into a report, which also lists what is unavailable.

Changes nothing, except one key with a lifetime, which proves that Redis accepts writes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import redis

from handlers.support.daemon_pool import in_thread
from handlers.support.url import hide_password
from receiver.checks import alert_store, board
from receiver.checks.report import NEWS, DiskReport, LedgerReport, RedisReport, Server, StatusReport
from receiver.config.loader import file_hash, file_sections, load_file
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.liveness import SeenProcess
from receiver.errors import ConfigError
from receiver.inbox.state import examine
from receiver.ingest import redis_settings
from receiver.ingest.quarantine import Quarantine
from receiver.ingest.spool import usage
from receiver.ledger import Connection, Ledger, LedgerUnavailable, heartbeats, operations, stats
from receiver.ledger.access import audit, redis_losses
from receiver.ledger.database import clock_correction
from receiver.ledger.database.errors import remedy_for
from receiver.ledger.deliveries import lanes
from receiver.ledger.migrate import schema_trouble
from receiver.runtime.redis_client import auth_error, connect

# Seconds to wait for a response of Redis.
_TIMEOUT: Final = 2.0


def survey(settings: Settings, ledger_wait: float | None = None) -> StatusReport:
    """Return the state of all that these settings name. Raises ConfigError for an invalid DATABASE_URL.

    `ledger_wait`: seconds after which a hanging ledger is reported as unavailable; None: as long as its driver waits.
    """
    config, problems, warnings = _config(settings)
    reading = in_thread("survey", lambda: _ledger(settings, config))
    redis_report = _redis(settings, config)
    try:
        ledger_report, ledger_processes = reading.result(ledger_wait)
    except TimeoutError:
        trouble = f"no response within {ledger_wait:g} s"
        ledger_report = LedgerReport(hide_password(settings.database_url), trouble, remedy_for(trouble).words)
        ledger_processes = []
    seen = board.merged(ledger_processes, board.list_local_processes(settings.data))
    if redis_report.trouble:
        redis_report = replace(redis_report, down_since=_down_since(seen, "redis_down"))
    if ledger_report.trouble:
        ledger_report = replace(ledger_report, down_since=_down_since(seen, "ledger_down"))
    inbox = redis_report.inbox
    redis_report = replace(redis_report, inbox=replace(inbox, rate=_shrinks_by(inbox.entries, seen)))
    return StatusReport(
        settings=settings,
        config=config,
        now=time.time(),
        config_hash=file_hash(settings.config),
        redis=redis_report,
        ledger=ledger_report,
        disk=_disk(settings, config),
        processes=seen,
        config_problems=problems,
        warnings=warnings,
        config_sections=file_sections(settings.config),
    )


def _down_since(seen: Sequence[SeenProcess], key: str) -> float | None:
    """Return the earliest time that a running process reports under `key`; None if there is no such report."""
    running = [each for each in seen if each.alive and isinstance(each.beat.details.get(key), float)]
    return min((time.time() - each.age_of(each.beat.details[key]) for each in running), default=None)


def _shrinks_by(entries: int, seen: Sequence[SeenProcess]) -> float:
    """Return by how many entries a second the inbox has shrunk since a receiver's newest report; 0.0 if it has not."""
    for each in sorted(seen, key=lambda it: it.age):
        match each.beat.details.get("inbox"):
            case [float(at), int(before)] if each.alive and (seconds := each.age_of(at)) > 0:
                return max(0.0, round((before - entries) / seconds, 3))
    return 0.0


def _config(settings: Settings) -> tuple[Config | None, list[str], list[str]]:
    try:
        loaded = load_file(settings.config, settings.environ)
    except ConfigError as error:
        return None, list(error.problems), []
    except OSError as error:
        return None, [f"{settings.config}: {(error.strerror or str(error)).lower()}"], []
    return loaded.config, [], loaded.warnings


def _redis(settings: Settings, config: Config | None) -> RedisReport:
    report = RedisReport(hide_password(settings.redis_url), embedded=settings.embedded_redis)
    if config:
        report = replace(report, max_events=config.inbox.max_events, max_bytes=config.inbox.max_bytes)
    client = connect(settings.redis_url, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, retries=0)
    try:
        promise = redis_settings.examine_once(settings.redis_url, config.server.max_body if config else 0, _TIMEOUT)
        report = replace(report, inbox=examine(client))
        if config and config.alerts.to and (state := alert_store.read(client)):
            failing = {name: why for name, why in state.failing.items() if name in config.alerts.to}
            report = replace(report, alerts_failing=failing)
        with suppress(redis.ResponseError):  # they may be forbidden
            report = _with_info(report, client)
    except (redis.RedisError, OSError, TimeoutError) as error:
        reason = auth_error(settings.redis_url, error) or str(error).rstrip(".") or "no answer in time"
        return replace(report, trouble=reason)
    finally:
        client.close()
    weak = not promise.strong and not (config and config.server.accept_weaker_durability)
    return replace(report, durability=str(promise), weak="; ".join(promise.problems) if weak else "")


def _with_info(report: RedisReport, client: redis.Redis) -> RedisReport:
    """Return the report with what Redis says about itself."""
    info: dict[str, Any] = client.info()
    began = time.time()
    seconds, microseconds = client.time()
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    return replace(
        report,
        uptime=info.get("uptime_in_seconds"),
        used_memory=info.get("used_memory"),
        maxmemory=int(info.get("maxmemory", 0)),
        server=Server(
            name,
            tuple(int(part) for part in version.split(".") if part.isdecimal()),
            skew(seconds + microseconds / 1e6, began, time.time()),
        ),
    )


def skew(theirs: float, began: float, ended: float) -> float:
    """Return by how many seconds at least this host's clock is ahead of a server's.

    `theirs`: the server's time, which it read between `began` and `ended`.
    """
    return max(began - theirs, min(ended - theirs, 0.0))


def _ledger(settings: Settings, config: Config | None) -> tuple[LedgerReport, list[SeenProcess]]:
    url = hide_password(settings.database_url)
    ledger = Ledger(settings.database_url, require_durability=config is not None and config.durable_ledger)
    sinks = config.destinations if config is not None else None

    def read(connection: Connection) -> tuple[LedgerReport, list[SeenProcess]]:
        began = time.time()
        gauges, shut = stats.read(connection), lanes.not_closed(connection)
        pauses = audit.list_actions(connection, 100, actions=["sink.pause"]) if any(it.paused for it in shut) else []
        newest, sinks_shut = stats.newest(connection, gauges.read_at - NEWS), {lane.sink for lane in shut}
        sent = audit.list_actions(connection, 100, actions=["spool.send"], since=gauges.read_at - NEWS)
        report = LedgerReport(
            url,
            gauges=gauges,
            lanes=shut,
            paused_by={str(it.selection.get("sink")): audit.who(it.actor, it.actor_kind) for it in reversed(pauses)},
            orphans=stats.orphaned(gauges.counts, sinks) if sinks is not None else {},
            newest=newest,
            responses=stats.responses(connection, sinks_shut | newest.refused.keys()),
            waiting_runs=stats.waiting_runs(connection, sinks_shut),
            paces=stats.paces(connection, gauges.counts, gauges.read_at),
            operations=operations.count_running(connection),
            corrected=clock_correction.last_correction(connection, gauges.read_at - NEWS),
            redis_lost=redis_losses.last_loss(connection, gauges.read_at - NEWS),
            spool_sent={str(it.selection.get("data_id", "")): it.at for it in reversed(sent)},
            server=_database(connection, gauges.read_at, began),
        )
        return report, heartbeats.list_processes(connection)

    try:
        if trouble := schema_trouble(ledger):
            return LedgerReport(url, trouble.what, trouble.todo), []
        weak = ledger.weakness()
        report, seen = ledger.read(read)
        return replace(report, weak=weak), seen
    except LedgerUnavailable as error:
        return LedgerReport(url, str(error), remedy_for(str(error)).words), []
    finally:
        ledger.close()


def _database(connection: Connection, now: float, began: float) -> Server:
    """Return the ledger's database. `now`: its time, as in `skew`."""
    version = tuple(part for part in connection.dialect.server_version_info or () if isinstance(part, int))
    if connection.dialect.name == "sqlite":
        return Server("SQLite", version)  # with this host's clock
    return Server("PostgreSQL", version, skew(now, began, time.time()))


def _disk(settings: Settings, config: Config | None) -> DiskReport:
    folder = settings.data
    reserve, limit = (config.spool.reserve_bytes, config.spool.max_bytes) if config else (None, None)
    if not folder.is_dir():
        return DiskReport(str(folder), "there is no such directory", reserve=reserve, spool_limit=limit)
    trouble = "" if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "this user may not read and write it"
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
    spool, refused = usage(folder / "spool"), _quarantine(folder / "quarantine")
    return DiskReport(
        *(str(folder), trouble, free, reserve, spool.bytes, spool.left, limit, spool.set_aside),
        *(len(refused), max(refused, default=None)),
        refused_lately=sum(at > time.time() - NEWS for at in refused),
        spool_events=spool.events,
    )


def _quarantine(folder: Path) -> Sequence[float]:
    with suppress(OSError):
        return [each.at for each in Quarantine(folder, 0, 0).list()]
    return []
