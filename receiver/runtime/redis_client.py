"""Clients of Redis, and what its errors mean. One maker of clients: redis-py's own defaults are ten retries."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from handlers.support.url import hide_password


def no_entry(redis_url: str, error: Exception) -> str:
    """Why Redis does not let us in, as one line, where waiting can't help; else ""."""
    where = hide_password(redis_url)
    if isinstance(error, redis.AuthenticationError):
        if str(error).startswith(("HELLO must be called", "Authentication required")):
            return f"Redis at {where} wants a password: write it into REDIS_URL, redis://:password@host:port/0"
        return f"Redis at {where} refuses our password or user: {error}"
    if "DB index is out of range" in str(error):
        return f"Redis at {where} has no database of that number: write another one at the end of REDIS_URL"
    return ""


def connect(url: str, *, socket_timeout: float = 5.0) -> redis.Redis:
    """A client without redis-py's ten retries: whoever waits for Redis here decides for itself how long."""
    return redis.Redis.from_url(
        url, socket_timeout=socket_timeout, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0)
    )
