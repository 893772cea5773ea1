"""Checks of Redis, the inbox and the ledger: available, durable, fast enough, of a supported version, with one time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from handlers.support.wording import size
from receiver.checks.finding import Finding, fault
from receiver.checks.processes import SKEW
from receiver.checks.report import Server, StatusReport
from receiver.checks.storage import refusing
from receiver.domain.counting import counted
from receiver.domain.durations import ago, lasting
from receiver.domain.trouble import redis_todo
from receiver.ledger.migrate import HEAD
from receiver.runtime.redis_client import OLDEST_REDIS

# Seconds after which an inbox entry is overdue.
INBOX_LATE: Final = 60.0
# Seconds after which corrected times are only a note.
CORRECTION_LATE: Final = 900.0
# Hours before a loss of Redis in which runs may have begun whose results it held.
_RUNS_FOR: Final = 24
# The fraction of its memory from which on Redis is nearly full.
_NEARLY_FULL: Final = 0.9
# MATERIALIZED came with PostgreSQL 12, RETURNING with SQLite 3.35.
OLDEST_POSTGRESQL: Final = (12,)
OLDEST_SQLITE: Final = (3, 35)


def of_redis(report: StatusReport) -> Iterator[Finding]:
    """Yield refused webhooks, lost data, and why Redis is unavailable, full or weak."""
    redis, refused = report.redis, refusing(report)
    if (at := report.ledger.redis_lost) is not None:
        when = f"{datetime.fromtimestamp(at, UTC):%H:%M} UTC ({ago(report.now - at)} ago)"
        what = f"Redis lost its data at {when}: results acknowledged but not yet recorded then may be missing"
        yield fault("redis_lost", what, hours=math.ceil((report.now - at) / 3600 + _RUNS_FOR))
    if refused:
        yield fault("webhooks_refused", f"webhooks are being refused with 503: {refused}")
    until = "webhooks are refused" if refused else "webhooks go to the spool of each receiver"
    down = lasting(redis.down_since, report.now)
    if "maxmemory" in redis.trouble:  # Redis's own error message
        yield fault("redis_full", f"Redis has no memory left ({redis.url}){down}: {redis.trouble}", until=until)
    elif redis.trouble:
        start = redis_todo(embedded=redis.embedded)
        yield fault(
            "redis_away", f"Redis is unavailable ({redis.url}){down}: {redis.trouble}", start=start, until=until
        )
    elif redis.weak:
        what = f"Redis at {redis.url} does not promise that a 202 means on disk: {redis.weak}"
        yield fault("redis_weak", what, until=until)


def of_inbox(report: StatusReport) -> Iterator[Finding]:
    """Yield why the inbox is unreadable or late, and entries that were set aside."""
    inbox = report.redis.inbox
    if inbox.trouble:
        yield fault("inbox_unreadable", f"the inbox can't be read: {inbox.trouble}")
    if inbox.set_aside:
        entries = counted(inbox.set_aside, "entry of the inbox was", "entries of the inbox were")
        why = "a worker does not know their source, their signature is invalid, or they ended a dispatcher"
        yield fault("inbox_set_aside", f"{entries} set aside: {why}")
    if inbox.oldest is not None and inbox.oldest > INBOX_LATE and not report.ledger.trouble:
        events = counted(inbox.entries, "event waits", "events wait")
        late = f"{events} in the inbox, the oldest for {ago(inbox.oldest)}"
        if drains := show_drain(inbox.entries, inbox.rate):
            yield Finding("inbox_late", f"{late}; {drains}", "no action needed", note=True)
        else:
            yield fault("inbox_late", late)


def show_drain(entries: int, rate: float) -> str:
    """Return how fast the inbox shrinks, and when it will be empty; "" if it does not shrink."""
    return f"{rate:,.1f} fewer each second, drained in {ago(entries / rate)} at this rate" if rate >= 0.1 else ""


def of_ledger(report: StatusReport) -> Iterator[Finding]:
    """Yield why the ledger is unavailable, weak or slow."""
    ledger, entries = report.ledger, report.redis.inbox.entries
    if ledger.trouble:
        waiting = f"; {counted(entries, 'event waits', 'events wait')} in the inbox" if entries else ""
        down = lasting(ledger.down_since, report.now)
        yield fault(
            "ledger_away",
            f"the ledger is unavailable ({ledger.url}){down}: {ledger.trouble}{waiting}",
            start=ledger.todo or "see whether its database runs and answers, or fix DATABASE_URL",
            until="" if refusing(report) else "webhooks are stored, and ",
        )
    elif ledger.weak:
        yield fault("ledger_weak", f"the ledger at {ledger.url} may lose what it has confirmed: {ledger.weak}")
    if ledger.corrected:
        deliveries, breakers, polls, at = ledger.corrected
        rows = f"{counted(deliveries, 'delivery', 'deliveries')}, {counted(breakers, 'breaker', 'breakers')} and"
        yield fault(
            "clock_was_ahead",
            "the clock of the ledger's database was ahead, and was set back: the clock process corrected the times of "
            f"{rows} {counted(polls, 'poll', 'polls')} {ago(report.now - at)} ago",
            note=report.now - at > CORRECTION_LATE,
        )
    for each in ledger.gauges.cancelled:
        yield fault(
            "ledger_slow",
            f"the database cancelled {each.operation} for time, {counted(each.times, 'time', 'times')} in a row, "
            f"the last {ago(report.now - each.last_at)} ago: its work has stopped",
        )


def of_redis_server(report: StatusReport) -> Iterator[Finding]:
    """Yield the durability, memory, version and clock of an available Redis."""
    redis = report.redis
    if redis.trouble:
        return
    if not redis.weak:
        yield Finding("redis.durability", redis.durability)
    if redis.used_memory is not None:
        limit = f"of {size(redis.maxmemory)} used" if redis.maxmemory else "used, no limit"
        what = f"{redis.eviction or 'eviction policy not shown'}, {size(redis.used_memory)} {limit}"
        is_full = redis.maxmemory and redis.used_memory > _NEARLY_FULL * redis.maxmemory
        yield fault("redis.memory", what) if is_full else Finding("redis.memory", what)
    yield from judge("redis", redis.server, OLDEST_REDIS)


def of_ledger_server(report: StatusReport) -> Iterator[Finding]:
    """Yield the durability, schema, version and clock of an available ledger."""
    ledger = report.ledger
    if ledger.trouble:
        return
    if not ledger.weak:
        yield Finding("ledger.durability", "commits are on disk")
    yield Finding("ledger.tables", f"schema {HEAD}")
    yield from judge("ledger", ledger.server, OLDEST_SQLITE if ledger.server.name == "SQLite" else OLDEST_POSTGRESQL)


def judge(store: str, server: Server, oldest: tuple[int, ...]) -> Iterator[Finding]:
    """Yield whether a server's version is at least `oldest`, and its clock that of this host, as far as known."""
    if server.version:
        what, needed = f"{server.name} {'.'.join(map(str, server.version))}", ".".join(map(str, oldest))
        is_old, code = server.version < oldest, f"{store}.version"
        yield fault(code, what, server=server.name, oldest=needed) if is_old else Finding(code, what)
    if server.skew is not None:
        apart = abs(server.skew)
        offset = f"{apart:.1f} s {'ahead of' if server.skew > 0 else 'behind'}" if apart >= 0.1 else "equal to"
        what, code = f"this host's clock is {offset} that of {server.name}", f"{store}.clock"
        yield fault(code, what) if apart > SKEW else Finding(code, what)
