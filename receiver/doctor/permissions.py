"""What the user of REDIS_URL may do in Redis: an ACL may refuse commands, or keys, that a part needs hours later."""

from __future__ import annotations

from typing import Final

import redis

from receiver.doctor.finding import Finding

_OURS, _RQ = "runhook:doctor", "rq:doctor"
# The commands that the parts and RQ send, each as it would be right.
_USED: Final[tuple[tuple[str, ...], ...]] = (
    ("EVAL", "return 1", "0"),
    ("DEL", _OURS),
    ("EXISTS", _OURS),
    ("EXPIRE", _OURS, "1"),
    ("HGETALL", _OURS),
    ("HINCRBY", _OURS, "field", "1"),
    ("HINCRBYFLOAT", _OURS, "field", "1"),
    ("HSET", _OURS, "field", "value"),
    ("PTTL", _OURS),
    ("RENAME", _OURS, _OURS),
    ("SET", _OURS, "value"),
    ("TYPE", _OURS),
    ("XACK", _OURS, "group", "0-1"),
    ("XADD", _OURS, "*", "field", "value"),
    ("XAUTOCLAIM", _OURS, "group", "consumer", "1", "0"),
    ("XCLAIM", _OURS, "group", "consumer", "1", "0-1"),
    ("XDEL", _OURS, "0-1"),
    ("XGROUP", "CREATE", _OURS, "group", "0"),
    ("XINFO", "CONSUMERS", _OURS, "group"),
    ("XLEN", _OURS),
    ("XPENDING", _OURS, "group"),
    ("XRANGE", _OURS, "-", "+"),
    ("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", _OURS, ">"),
    ("XTRIM", _OURS, "MAXLEN", "1"),
    ("BLMOVE", _RQ, _RQ, "LEFT", "RIGHT", "1"),
    ("BLPOP", _RQ, "1"),
    ("DEL", _RQ),
    ("HGET", _RQ, "field"),
    ("HMGET", _RQ, "field"),
    ("HSET", _RQ, "field", "value"),
    ("LLEN", _RQ),
    ("LRANGE", _RQ, "0", "1"),
    ("LREM", _RQ, "0", "value"),
    ("RPUSH", _RQ, "value"),
    ("SADD", _RQ, "member"),
    ("SMEMBERS", _RQ),
    ("SREM", _RQ, "member"),
    ("ZADD", _RQ, "1", "member"),
    ("ZPOPMIN", _RQ),
    ("ZRANGE", _RQ, "0", "1"),
    ("ZREM", _RQ, "member"),
)


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
            refused = [f"{each[0]} on {_keys(each)}" for each in _USED if is_refused(*each)]
            refused += ["DISCARD"] if is_refused("DISCARD") else []
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]
        client.connection_pool.release(connection)
    words = f"its user may not use {', '.join(refused)}" if refused else "its user may use all commands that are needed"
    todo = refused and "let this user use them, by ACL SETUSER: all commands of these kinds, on keys rq:* and runhook:*"
    return Finding("redis.permissions", words, todo or "")


def _keys(command: tuple[str, ...]) -> str:
    """Return the keys of a command, as an ACL names them."""
    return "rq:*" if _RQ in command else "runhook:*" if _OURS in command else "no key"
