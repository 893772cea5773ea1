"""Checks of Redis, the inbox and the ledger: availability, durability, permissions, load, versions and clocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import redis

from handlers.support.wording import size
from receiver.checks.finding import Finding, fault
from receiver.checks.processes import SKEW
from receiver.checks.report import Server, StatusReport
from receiver.checks.storage import refusing
from receiver.domain.counting import counted
from receiver.domain.durations import ago, lasting
from receiver.domain.trouble import redis_todo
from receiver.ledger.migrate import HEAD
from receiver.runtime.redis_client import OLDEST_REDIS, connect

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

# The commands that processes, their scripts, RQ and `limits` send, by the keys they are on, with as many arguments as
# they need: none is executed. A test runs a service with these and no others.
_USED: Final = {
    "": """
    CLIENT SETNAME doctor; CONFIG GET appendfsync; EVAL script 0; EVALSHA sha 0; INFO; PING; SCRIPT LOAD script;
    TIME
    """,
    "runhook:*": """
    BLPOP KEY 1; DEL KEY; EXISTS KEY; EXPIRE KEY 1; GET KEY; HGET KEY field; HGETALL KEY;
    HINCRBY KEY field 1; HINCRBYFLOAT KEY field 1; HSET KEY field value; LINDEX KEY 0; LPUSH KEY value;
    LTRIM KEY 0 1; MEMORY USAGE KEY; PTTL KEY; RENAME KEY KEY; RPUSH KEY value; SADD KEY member; SET KEY value;
    SMEMBERS KEY; TYPE KEY; XACK KEY group 0-1; XADD KEY * field value; XCLAIM KEY group consumer 1 0-1; XDEL KEY 0-1;
    XGROUP CREATE KEY group 0; XGROUP DELCONSUMER KEY group consumer; XINFO CONSUMERS KEY group;
    XINFO GROUPS KEY; XLEN KEY;
    XPENDING KEY group; XRANGE KEY - +; XREADGROUP GROUP group consumer STREAMS KEY >; XTRIM KEY MAXLEN 1;
    ZADD KEY 1 member; ZPOPMIN KEY; ZREMRANGEBYRANK KEY 0 0
    """,
    "rq:*": """
    BLMOVE KEY KEY LEFT RIGHT 1; DEL KEY; EXISTS KEY; EXPIRE KEY 1; HGET KEY field; HGETALL KEY;
    HINCRBY KEY field 1; HMGET KEY field; HSET KEY field value; LLEN KEY; LRANGE KEY 0 1; LREM KEY 0 value;
    PERSIST KEY; RPUSH KEY value; SADD KEY member; SMEMBERS KEY; SREM KEY member; TYPE KEY; ZADD KEY 1 member;
    ZRANGE KEY 0 1; ZRANGEBYSCORE KEY 0 1; ZREM KEY member; ZREMRANGEBYSCORE KEY 0 1
    """,
}
# Commands whose subcommands an ACL allows separately.
_WITH_SUBCOMMANDS: Final = frozenset({"CLIENT", "CONFIG", "MEMORY", "SCRIPT", "XGROUP", "XINFO"})


def of_redis(report: StatusReport) -> Iterator[Finding]:
    """Yield refused webhooks, lost data, and why Redis is unavailable, full or weak."""
    store, refused = report.redis, refusing(report)
    if (at := report.ledger.redis_lost) is not None:
        when = f"{datetime.fromtimestamp(at, UTC):%H:%M} UTC ({ago(report.now - at)} ago)"
        what = f"Redis lost its data at {when}: results acknowledged but not yet recorded then may be missing"
        yield fault("redis_lost", what, hours=math.ceil((report.now - at) / 3600 + _RUNS_FOR))
    if refused:
        yield fault("webhooks_refused", f"webhooks are being refused with 503: {refused}")
    until = "webhooks are refused" if refused else "webhooks go to the spool of each receiver"
    down = lasting(store.down_since, report.now)
    if "maxmemory" in store.trouble:  # Redis's own error message
        yield fault("redis_full", f"Redis has no memory left ({store.url}){down}: {store.trouble}", until=until)
    elif store.trouble:
        start = redis_todo(embedded=store.embedded)
        yield fault(
            "redis_away", f"Redis is unavailable ({store.url}){down}: {store.trouble}", start=start, until=until
        )
    elif store.weak:
        what = f"Redis at {store.url} does not keep the promise that a 202 means on disk: {store.weak}"
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
    store = report.redis
    if store.trouble:
        return
    if not store.weak:
        yield Finding("redis.durability", store.durability)
    if store.used_memory is not None:
        limit = f"of {size(store.maxmemory)} used" if store.maxmemory else "used, no limit"
        what = f"{size(store.used_memory)} {limit}"
        is_full = store.maxmemory and store.used_memory > _NEARLY_FULL * store.maxmemory
        yield fault("redis.memory", what) if is_full else Finding("redis.memory", what)
    yield from judge("redis", store.server, OLDEST_REDIS)


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


def of_permissions(report: StatusReport) -> Iterator[Finding]:
    """Yield what the user of an available Redis may not do."""
    if report.redis.trouble:
        return
    client = connect(report.settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=0)
    try:
        yield try_commands(client)
    except (redis.RedisError, OSError) as error:
        yield Finding("redis.permissions", f"{report.redis.url}: {error}", "find out why it responds late")
    finally:
        client.close()


def commands() -> list[str]:
    """Return the names of all commands that are tried, each once: XADD, or XGROUP CREATE."""
    return sorted({"WATCH", "MULTI", "EXEC", "DISCARD", *(_name(command) for _, command in _used())})


def try_commands(client: redis.Redis) -> Finding:
    """Return what the user of REDIS_URL may do: an ACL may refuse what a process needs hours later.

    Redis refuses a command of a transaction when it is queued; this one is discarded, so that nothing is done. Raises
    RedisError and OSError.
    """
    connection = client.connection_pool.get_connection()

    def is_refused(*command: str) -> bool:
        connection.send_command(*command)  # type: ignore[no-untyped-call]
        try:
            connection.read_response()
        except redis.ResponseError as error:  # or another, such as that memory is full
            return isinstance(error, redis.exceptions.NoPermissionError) or "NOPERM" in str(error)
        return False

    try:
        begun = {"WATCH on rq:*": ("WATCH", "rq:doctor"), "MULTI": ("MULTI",), "EXEC": ("EXEC",)}
        refused = [name for name, command in begun.items() if is_refused(*command)]
        if not {"MULTI", "EXEC"} & {*refused} and not is_refused("MULTI"):
            refused += [
                _name(command) + (f" on {keys}" if keys else "") for keys, command in _used() if is_refused(*command)
            ]
            refused += ["DISCARD"] if is_refused("DISCARD") else []
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]
        client.connection_pool.release(connection)
    if refused:
        return fault("redis.permissions", f"the user may not run {', '.join(refused)}")
    return Finding("redis.permissions", "the user may run all required commands")


def _used() -> Iterator[tuple[str, list[str]]]:
    """Yield the keys and the words of each command of _USED."""
    for keys, text in _USED.items():
        for command in text.split(";"):
            yield keys, command.replace("KEY", keys.replace("*", "doctor")).split()


def _name(command: Sequence[str]) -> str:
    """Return the name of a command, with the subcommand that an ACL names."""
    return " ".join(command[: 2 if command[0] in _WITH_SUBCOMMANDS else 1])
