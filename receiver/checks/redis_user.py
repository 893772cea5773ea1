"""Check what the user of REDIS_URL may do: an ACL may refuse what a process needs hours later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import redis

from receiver.checks.finding import Finding, fault
from receiver.checks.report import StatusReport
from receiver.runtime.redis_client import connect

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
