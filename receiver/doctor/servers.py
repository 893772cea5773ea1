"""Redis and the ledger's database: what they promise, their versions, and their clocks beside ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from typing import Any, Final

import redis

from receiver.config.settings import Settings
from receiver.doctor.finding import Finding
from receiver.doctor.permissions import of_redis_user
from receiver.ledger import Connection, Ledger, LedgerUnavailable, words
from receiver.ledger.database_clock import database_now
from receiver.ledger.errors import remedy_for
from receiver.ledger.migrate import HEAD, schema_trouble
from receiver.runtime.redis_client import OLDEST_REDIS, connect
from receiver.status.problem import size
from receiver.status.problems import SKEW
from receiver.status.report import LedgerReport, RedisReport

# MATERIALIZED came with PostgreSQL 12, RETURNING with SQLite 3.35.
OLDEST_POSTGRESQL: Final = (12,)
OLDEST_SQLITE: Final = (3, 35)
# The part of its memory from which on Redis is nearly full.
_NEARLY_FULL: Final = 0.9
_NTP: Final = "run NTP (chrony, systemd-timesyncd) on both: this host's clock gives the time of a webhook"


def of_redis(settings: Settings, report: RedisReport) -> Iterator[Finding]:
    """Yield what is found of Redis; `report` says what it promises."""
    if report.trouble:
        how = "`runhook dev` starts it, or set REDIS_URL" if report.embedded else "start it, or fix REDIS_URL"
        yield Finding("redis", f"{report.url} can't be used: {report.trouble}", how)
        return
    todo = report.weak and "change its settings as it says; receivers do not use it as it is"
    yield Finding("redis.durability", report.weak or report.durability, todo)
    client = connect(settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=0)
    try:
        info: dict[str, Any] = client.info()
        began, monotonic = time.time(), time.monotonic()
        seconds, microseconds = client.time()
        took = time.monotonic() - monotonic
        permissions = of_redis_user(client)
    except (redis.RedisError, OSError) as error:
        yield Finding(
            "redis", f"{report.url}: {error}", "allow this user INFO and TIME, or see that it answers in time"
        )
        return
    finally:
        client.close()
    yield permissions
    yield _memory(info)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    yield _version("redis.version", name, version, OLDEST_REDIS)
    yield _clock("redis.clock", name, seconds + microseconds / 1e6, began, took)


def _memory(info: dict[str, Any]) -> Finding:
    """Say what Redis does when its memory is full, and how full it is. Which policy is wrong, its durability tells."""
    policy, most, used = str(info.get("maxmemory_policy", "")), int(info.get("maxmemory", 0)), int(info["used_memory"])
    shown = f"{policy or 'eviction policy not shown'}, {size(used)} used of {size(most) if most else 'what there is'}"
    full = most and used > _NEARLY_FULL * most
    evicts = policy.startswith("allkeys") and "set maxmemory-policy to noeviction: events can be evicted"
    return Finding("redis.memory", shown, evicts or ("raise maxmemory, or remove what else is there" if full else ""))


def of_ledger(settings: Settings, report: LedgerReport) -> Iterator[Finding]:
    """Yield what is found of the ledger; `report` says what its database promises."""
    ledger = Ledger(settings.database_url)
    try:
        if trouble := schema_trouble(ledger):
            yield Finding("ledger.tables", f"{trouble.what} ({report.url})", trouble.todo)
        else:
            yield from _of_database(ledger, report)
    except LedgerUnavailable as error:
        todo = remedy_for(str(error)).words or "start its database, or fix DATABASE_URL"
        yield Finding("ledger", f"{report.url} can't be used: {error}", todo)
    finally:
        ledger.close()


def _of_database(ledger: Ledger, report: LedgerReport) -> Iterator[Finding]:
    def ask(connection: Connection) -> tuple[tuple[int | str, ...], float]:
        return connection.dialect.server_version_info or (), database_now(connection)

    began, monotonic = time.time(), time.monotonic()
    version, now = ledger.read(ask)
    took = time.monotonic() - monotonic
    weak = report.weak and "change them, or accept it with ledger.accept_weaker_durability; no part starts with it"
    yield Finding("ledger.durability", report.weak or "what is confirmed is on disk", weak)
    yield Finding("ledger.tables", f"schema {HEAD}")
    if ledger.dialect == "sqlite":
        yield _version("ledger.version", "SQLite", sqlite3.sqlite_version, OLDEST_SQLITE)
        if not ledger.read(words.has_index):
            yield Finding(
                "ledger.words",
                f"no index of words: searches read {words.NEWEST} runs a page",
                "use a Python whose SQLite has FTS5; the clock then makes the index",
            )
        return
    yield _version("ledger.version", "PostgreSQL", ".".join(map(str, version)), OLDEST_POSTGRESQL)
    yield _clock("ledger.clock", "PostgreSQL", now, began, took)


def _version(check: str, name: str, version: str, oldest: tuple[int, ...]) -> Finding:
    needed = ".".join(map(str, oldest))
    found = tuple(int(part) for part in version.split(".") if part.isdecimal())
    return Finding(check, f"{name} {version}", "" if found >= oldest else f"upgrade it to {name} {needed} or newer")


def _clock(check: str, name: str, theirs: float, began: float, took: float) -> Finding:
    """Compare a server's clock with ours. `began`: when it was asked, by ours; `took`: seconds until the answer."""
    ahead = began + took / 2 - theirs
    apart = max(abs(ahead) - took / 2, 0.0)
    offset = f"{apart:.1f} s {'ahead of' if ahead > 0 else 'behind'}" if apart >= 0.1 else "that of"
    return Finding(check, f"the clock of this host is {offset} {name}", _NTP if apart > SKEW else "")
