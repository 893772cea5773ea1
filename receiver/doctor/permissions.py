"""What the user of REDIS_URL may do in Redis: an ACL may refuse commands, or keys, that a part needs hours later."""

from __future__ import annotations

from typing import Final

import redis

from receiver.doctor.finding import Finding

_OURS, _RQ = "runhook:doctor", "rq:doctor"
# The commands that the parts, their scripts, RQ and `limits` send, each as it would be right.
# tests/acceptance/test_redis_permissions.py lets a service work with these and no others.
_USED: Final[tuple[tuple[str, ...], ...]] = (
    ("CLIENT", "SETNAME", "doctor"),
    ("CONFIG", "GET", "appendfsync"),
    ("EVAL", "return 1", "0"),
    ("EVALSHA", "0" * 40, "0"),
    ("INFO",),
    ("PING",),
    ("SCRIPT", "LOAD", "return 1"),
    ("TIME",),
    ("BLPOP", _OURS, "1"),
    ("DEL", _OURS),
    ("EXISTS", _OURS),
    ("EXPIRE", _OURS, "1"),
    ("GET", _OURS),
    ("HDEL", _OURS, "field"),
    ("HGET", _OURS, "field"),
    ("HGETALL", _OURS),
    ("HINCRBY", _OURS, "field", "1"),
    ("HINCRBYFLOAT", _OURS, "field", "1"),
    ("HLEN", _OURS),
    ("HSET", _OURS, "field", "value"),
    ("LINDEX", _OURS, "0"),
    ("LPUSH", _OURS, "value"),
    ("LTRIM", _OURS, "0", "1"),
    ("MEMORY", "USAGE", _OURS),
    ("PTTL", _OURS),
    ("RENAME", _OURS, _OURS),
    ("RPUSH", _OURS, "value"),
    ("SET", _OURS, "value"),
    ("TYPE", _OURS),
    ("XACK", _OURS, "group", "0-1"),
    ("XADD", _OURS, "*", "field", "value"),
    ("XCLAIM", _OURS, "group", "consumer", "1", "0-1"),
    ("XDEL", _OURS, "0-1"),
    ("XGROUP", "CREATE", _OURS, "group", "0"),
    ("XGROUP", "DELCONSUMER", _OURS, "group", "consumer"),
    ("XGROUP", "SETID", _OURS, "group", "0"),
    ("XINFO", "CONSUMERS", _OURS, "group"),
    ("XLEN", _OURS),
    ("XPENDING", _OURS, "group"),
    ("XRANGE", _OURS, "-", "+"),
    ("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", _OURS, ">"),
    ("XTRIM", _OURS, "MAXLEN", "1"),
    ("ZADD", _OURS, "1", "member"),
    ("ZPOPMIN", _OURS),
    ("ZREMRANGEBYRANK", _OURS, "0", "0"),
    ("ZSCORE", _OURS, "member"),
    ("BLMOVE", _RQ, _RQ, "LEFT", "RIGHT", "1"),
    ("DEL", _RQ),
    ("EXISTS", _RQ),
    ("EXPIRE", _RQ, "1"),
    ("HGET", _RQ, "field"),
    ("HGETALL", _RQ),
    ("HINCRBY", _RQ, "field", "1"),
    ("HMGET", _RQ, "field"),
    ("HSET", _RQ, "field", "value"),
    ("LLEN", _RQ),
    ("LRANGE", _RQ, "0", "1"),
    ("LREM", _RQ, "0", "value"),
    ("RPUSH", _RQ, "value"),
    ("SADD", _RQ, "member"),
    ("SMEMBERS", _RQ),
    ("SREM", _RQ, "member"),
    ("TYPE", _RQ),
    ("ZADD", _RQ, "1", "member"),
    ("ZRANGE", _RQ, "0", "1"),
    ("ZREM", _RQ, "member"),
)
# Commands whose subcommands an ACL allows separately.
_WITH_SUBCOMMANDS: Final = frozenset({"CLIENT", "CONFIG", "MEMORY", "SCRIPT", "XGROUP", "XINFO"})


def commands() -> list[str]:
    """Return the names of all commands that are tried, each once: XADD, or XGROUP CREATE."""
    return sorted({"MULTI", "EXEC", "DISCARD", *map(_name, _USED)})


def of_redis_user(client: redis.Redis) -> Finding:
    """Return what the user may do. Raises RedisError and OSError.

    Redis refuses a command of a transaction when it is queued; this one is discarded, so that nothing is done.
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
        refused = [" ".join(each) for each in (("MULTI",), ("EXEC",)) if is_refused(*each)]
        if not refused and not is_refused("MULTI"):
            refused = [f"{_name(each)}{_keys(each)}" for each in _USED if is_refused(*each)]
            refused += ["DISCARD"] if is_refused("DISCARD") else []
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]
        client.connection_pool.release(connection)
    words = f"its user may not use {', '.join(refused)}" if refused else "its user may use all commands that are needed"
    todo = refused and "let this user use them, by ACL SETUSER: all commands of these kinds, on keys rq:* and runhook:*"
    return Finding("redis.permissions", words, todo or "")


def _name(command: tuple[str, ...]) -> str:
    """Return the name of a command, with the subcommand that an ACL names."""
    return " ".join(command[: 2 if command[0] in _WITH_SUBCOMMANDS else 1])


def _keys(command: tuple[str, ...]) -> str:
    """Return on which keys a command is, as an ACL names them."""
    return " on rq:*" if _RQ in command else " on runhook:*" if _OURS in command else ""
