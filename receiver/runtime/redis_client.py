"""Create clients of Redis, and explain its errors.

The only module that creates clients: redis-py's defaults are ten retries with pauses, but each caller must decide how
long it waits for Redis.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from typing import Any, Final

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from handlers.support.url import hide_password
from receiver.errors import ConfigError

# XAUTOCLAIM came with Redis 6.2.
OLDEST_REDIS: Final = (6, 2)
# What a connection does with its transport.
_USES_TRANSPORT: Final = ("connect", "send_packed_command", "read_response", "can_read", "can_read_destructive")
# What a connection tells Redis of its client: else each one reads the version from redis-py's distribution.
_DRIVER: Final = DriverInfo(lib_version=redis.__version__)
# No notices of maintenance, which only some managed services send: asking for them costs a round trip.
_OPTIONS: Final[dict[str, Any]] = {
    "driver_info": _DRIVER,
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}
_REPLICA: Final = "the server is a read-only replica"
_RETRIED = (redis.ConnectionError,)  # a stale connection fails at once; a time-out is not waited for twice


def check_url(url: str) -> None:
    """Check the options after the ? of `url`; the rest is checked with the other settings. Opens nothing.

    Raises ConfigError. Otherwise redis-py would fail at the first command, with another error than RedisError.
    """
    try:
        pool = redis.ConnectionPool.from_url(url, driver_info=_DRIVER)
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError) as error:
        named = re.search(r"'(\w+)'", str(error))
        what = f"the option {named.group(1)}, which" if named else "what"
        raise ConfigError(
            f"REDIS_URL: {what} is after the ?, is not known or has a wrong value; right would be"
            " redis://:password@host:6379/0"
        ) from None


def connect(url: str, *, timeout: float, connect_timeout: float, retries: int) -> redis.Redis:
    """Return a client, which connects on first use. `timeout`: seconds that a response may take.

    `retries`: how often a command whose connection broke is sent again, without a pause: once for clients that
    keep connections, which may have gone stale, else 0.
    """
    retry = Retry(NoBackoff(), retries, supported_errors=_RETRIED)
    client = redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=connect_timeout, retry=retry, **_OPTIONS
    )
    pool = client.connection_pool
    pool.connection_class = _leaving_replicas(pool.connection_class)
    return client


def connect_async(
    url: str,
    *,
    timeout: float | None,
    connect_timeout: float,
    retries: int,
    on_connect: Callable[[], None] = lambda: None,
) -> redis.asyncio.Redis:
    """Return a client for asyncio, as `connect`. `timeout` None: the caller limits the time itself.

    `on_connect`: called after each new connection.
    """

    async def connected(connection: Any) -> None:
        await connection.on_connect()
        on_connect()

    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        retry=redis.asyncio.retry.Retry(NoBackoff(), retries, supported_errors=_RETRIED),
        redis_connect_func=connected,
        **_OPTIONS,
    )
    pool = client.connection_pool
    pool.connection_class = _seeing_resets(pool.connection_class)  # type: ignore[arg-type]
    return client


@cache
def _leaving_replicas(kind: type[Any]) -> type[Any]:
    """Return `kind`, a class of connections, that are closed when their server has become a replica.

    The address leads to the new primary by then, but a connection that stays up would reach the old one forever.
    """

    def read_response(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return kind.read_response(self, *arguments, **options)
        except redis.ReadOnlyError as error:
            self.disconnect()
            raise redis.ConnectionError(_REPLICA) from error

    return type(kind.__name__, (kind,), {"read_response": read_response})


@cache
def _seeing_resets(kind: type[Any]) -> type[Any]:
    """Return `kind`, a class of asyncio connections, as `_leaving_replicas`, that also see a reset.

    After a reset uvloop raises RuntimeError ("… the handler is closed") wherever a transport is used: on a write, in a
    read that waits, when it is closed. redis-py knows only OSError.
    """

    def seeing(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        async def call(self: Any, *arguments: Any, **options: Any) -> Any:
            try:
                return await method(self, *arguments, **options)
            except (RuntimeError, redis.ReadOnlyError) as error:
                if isinstance(error, RuntimeError) and type(error) is not RuntimeError:  # a bug, such as RecursionError
                    raise
                await disconnect(self, nowait=True)
                reason = "the connection was reset" if isinstance(error, RuntimeError) else _REPLICA
                raise redis.ConnectionError(reason) from error

        return call

    async def disconnect(self: Any, *arguments: Any, **options: Any) -> None:
        with suppress(RuntimeError):  # it would hide the error that the connection is closed for
            await kind.disconnect(self, *arguments, **options)

    body = {name: seeing(getattr(kind, name)) for name in _USES_TRANSPORT}
    return type(kind.__name__, (kind,), {**body, "disconnect": disconnect})


def unusable(redis_url: str, error: Exception, todo: str) -> str:
    """Return in one line why Redis cannot be used, and how to fix it: `todo`, if it is unavailable."""
    reason = str(error).rstrip(".") or type(error).__name__
    return auth_error(redis_url, error) or f"Redis can't be used ({hide_password(redis_url)}): {reason}; {todo}"


def auth_error(redis_url: str, error: Exception) -> str:
    """Return in one line why Redis refuses access, if waiting cannot help; "" for all other errors."""
    where = hide_password(redis_url)
    if isinstance(error, redis.AuthenticationError):
        if str(error).startswith(("HELLO must be called", "Authentication required")):
            return f"Redis at {where} wants a password: write it into REDIS_URL, redis://:password@host:port/0"
        reason = str(error).rstrip(".")
        return f"Redis at {where} refuses our password or user: {reason}; correct them in REDIS_URL"
    if "DB index is out of range" in str(error):
        return f"Redis at {where} has no database of that number: write another one at the end of REDIS_URL"
    return ""
