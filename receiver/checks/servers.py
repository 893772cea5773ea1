"""Deep checks of Redis and the ledger's database: durability, permissions, versions and clocks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from handlers.support.wording import size
from receiver.checks.finding import Finding
from receiver.checks.processes import SKEW
from receiver.checks.report import StatusReport
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.database_clock import database_now
from receiver.ledger.migrate import HEAD
from receiver.runtime.redis_client import OLDEST_REDIS, connect

# MATERIALIZED came with PostgreSQL 12, RETURNING with SQLite 3.35.
OLDEST_POSTGRESQL: Final = (12,)
OLDEST_SQLITE: Final = (3, 35)
# The part of its memory from which on Redis is nearly full.
_NEARLY_FULL: Final = 0.9
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
_NTP: Final = "run NTP (chrony, systemd-timesyncd) on both: this host's clock gives the time of a webhook"


def of_redis(report: StatusReport) -> Iterator[Finding]:
    """Yield the durability, permissions, memory, version and clock of a Redis that is available."""
    if report.redis.trouble:
        return
    if not report.redis.weak:
        yield Finding("redis.durability", report.redis.durability)
    client = connect(report.settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=0)
    try:
        info: dict[str, Any] = client.info()
        began, monotonic = time.time(), time.monotonic()
        seconds, microseconds = client.time()
        took = time.monotonic() - monotonic
        permissions = of_redis_user(client)
    except (redis.RedisError, OSError) as error:
        todo = "allow this user INFO and TIME, or find out why it responds late"
        yield Finding("redis", f"{report.redis.url}: {error}", todo)
        return
    finally:
        client.close()
    yield permissions
    yield _memory(info)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    yield version_of("redis.version", name, version, OLDEST_REDIS)
    yield clock_of("redis.clock", name, seconds + microseconds / 1e6, began, took)


def _memory(info: dict[str, Any]) -> Finding:
    """Report Redis's eviction policy and memory. Policies other than allkeys-* are judged by its durability."""
    policy, most, used = str(info.get("maxmemory_policy", "")), int(info.get("maxmemory", 0)), int(info["used_memory"])
    limit = f"of {size(most)} used" if most else "used, no limit"
    shown = f"{policy or 'eviction policy not shown'}, {size(used)} {limit}"
    full = most and used > _NEARLY_FULL * most
    evicts = policy.startswith("allkeys") and "set maxmemory-policy to noeviction: events can be evicted"
    return Finding("redis.memory", shown, evicts or ("raise maxmemory, or remove other data" if full else ""))


def of_ledger(report: StatusReport) -> Iterator[Finding]:
    """Yield the durability, schema, version and clock of a ledger that is available."""
    if report.ledger.trouble:
        return
    ledger = Ledger(report.settings.database_url)

    def ask(connection: Connection) -> tuple[tuple[int | str, ...], float]:
        return connection.dialect.server_version_info or (), database_now(connection)

    began, monotonic = time.time(), time.monotonic()
    try:
        version, now = ledger.read(ask)
    except LedgerUnavailable as error:
        yield Finding("ledger", f"{report.ledger.url}: {error}", "find out why it responds late")
        return
    finally:
        ledger.close()
    took = time.monotonic() - monotonic
    if not report.ledger.weak:
        yield Finding("ledger.durability", "commits are on disk")
    yield Finding("ledger.tables", f"schema {HEAD}")
    if ledger.dialect == "sqlite":
        yield version_of("ledger.version", "SQLite", sqlite3.sqlite_version, OLDEST_SQLITE)
        return
    yield version_of("ledger.version", "PostgreSQL", ".".join(map(str, version)), OLDEST_POSTGRESQL)
    yield clock_of("ledger.clock", "PostgreSQL", now, began, took)


def version_of(check: str, name: str, version: str, oldest: tuple[int, ...]) -> Finding:
    """Check that a server's version is at least `oldest`."""
    needed = ".".join(map(str, oldest))
    found = tuple(int(part) for part in version.split(".") if part.isdecimal())
    return Finding(check, f"{name} {version}", "" if found >= oldest else f"upgrade it to {name} {needed} or newer")


def clock_of(check: str, name: str, theirs: float, began: float, took: float) -> Finding:
    """Compare a server's clock with this host's. `began`: time of the request; `took`: seconds until the response."""
    ahead = began + took / 2 - theirs
    apart = max(abs(ahead) - took / 2, 0.0)
    offset = f"{apart:.1f} s {'ahead of' if ahead > 0 else 'behind'}" if apart >= 0.1 else "equal to"
    return Finding(check, f"this host's clock is {offset} that of {name}", _NTP if apart > SKEW else "")


def commands() -> list[str]:
    """Return the names of all commands that are tried, each once: XADD, or XGROUP CREATE."""
    return sorted({"WATCH", "MULTI", "EXEC", "DISCARD", *(_name(command) for _, command in _used())})


def of_redis_user(client: redis.Redis) -> Finding:
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
    if not refused:
        return Finding("redis.permissions", "the user may run all required commands")
    todo = "allow them by ACL SETUSER: all commands of these kinds, on keys rq:* and runhook:*"
    return Finding("redis.permissions", f"the user may not run {', '.join(refused)}", todo)


def _used() -> Iterator[tuple[str, list[str]]]:
    """Yield the keys and the words of each command of _USED."""
    for keys, text in _USED.items():
        for command in text.split(";"):
            yield keys, command.replace("KEY", keys.replace("*", "doctor")).split()


def _name(command: Sequence[str]) -> str:
    """Return the name of a command, with the subcommand that an ACL names."""
    return " ".join(command[: 2 if command[0] in _WITH_SUBCOMMANDS else 1])
