"""What Redis's settings promise: is each event on disk before its 202, can it be evicted afterwards? Writes nothing.

Checked at start, whenever Redis comes back, and now and then in between. `assess` is pure; `examine` does the I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import redis
import redis.asyncio

from handlers.support.url import hide_password
from receiver.errors import NotStarted
from receiver.runtime.redis_client import auth_error, check_url, connect_async

# Redis settings without which a 202 does not mean on disk: what they must be, and what it means if they are not.
NEEDED: Final = {
    "appendonly": ("yes", "events are in memory only"),
    "appendfsync": ("always", "an event can be lost after its 202"),
    "no-appendfsync-on-rewrite": ("no", "no event is on disk while the file is rewritten"),
}

_PROBE = "runhook:probe"


class Durability(NamedTuple):
    """`problems`: one line each, none when the promise holds. `known`: False when Redis does not show its settings."""

    problems: tuple[str, ...] = ()
    known: bool = True

    @property
    def strong(self) -> bool:
        """Whether a 202 means that the event is on disk and stays there."""
        return self.known and not self.problems

    def __str__(self) -> str:
        if self.strong:
            return "on disk before 202: yes"
        return f"on disk before 202: {'no' if self.known else 'not known'} ({'; '.join(self.problems)})"


def assess(found: Mapping[str, str], max_body: int = 0) -> Durability:
    """Assess the Redis settings `found`. `max_body`: bytes of the largest event."""
    problems = [
        f"{name} is {found[name]}, so {meaning}: set it to {needed}"
        for name, (needed, meaning) in NEEDED.items()
        if name in found and found[name] != needed
    ]
    policy = found.get("maxmemory-policy", "noeviction")
    # volatile-* evicts only keys that expire, and an inbox never does; a lost wake-up is only lateness.
    if policy.startswith("allkeys"):
        problems.append(f"maxmemory-policy is {policy}, so events can be evicted: set it to noeviction")
    largest = found.get("proto-max-bulk-len", "")
    if largest.isdigit() and 0 < int(largest) < max_body:
        problems.append(f"proto-max-bulk-len is {largest}, less than server.max_body: set it to {max_body} or more")
    return Durability(tuple(problems))


async def examine(client: redis.asyncio.Redis, max_body: int = 0) -> Durability:
    """Examine a Redis's settings, after a write that proves that it takes any.

    Raises redis.RedisError, OSError or TimeoutError if it is unavailable.
    """
    pipeline: Any = client.pipeline(transaction=False)  # one round trip: on a busy machine each takes long
    pipeline.set(_PROBE, "1", ex=60)
    for name in (*NEEDED, "maxmemory-policy", "proto-max-bulk-len"):
        pipeline.config_get(name)
    written, *replies = await pipeline.execute(raise_on_error=False)
    if isinstance(written, Exception):
        raise written
    found: dict[str, str] = {}
    for reply in replies:
        if isinstance(reply, redis.ResponseError):
            reason = (
                f"this Redis forbids CONFIG GET ({str(reply)[:60]}), so it can't be checked that appendfsync is always"
            )
            return Durability((reason,), known=False)
        if isinstance(reply, Exception):
            raise reply
        found.update({_text(key): _text(value) for key, value in reply.items()})
    return assess(found, max_body)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check_at_start(
    redis_url: str,
    max_body: int,
    accept_weaker: bool,
    config_file: str,
    *,
    away: Callable[[str], None] = lambda _: None,
) -> Durability | None:
    """Examine the Redis at `redis_url`. None if it is unavailable: events then go to the spool.

    `away` is called with the reason then. Raises NotStarted when the promise does not hold and the operator has not
    accepted that (`accept_weaker`), and when Redis does not let us in.
    """
    check_url(redis_url)
    try:
        durability = examine_once(redis_url, max_body)
    except (redis.RedisError, OSError, TimeoutError) as error:
        if barred := auth_error(redis_url, error):
            raise NotStarted(barred) from None
        away(str(error) or type(error).__name__)
        return None
    if not durability.strong and not accept_weaker:
        raise NotStarted(explain(redis_url, durability, config_file))
    return durability


def explain(redis_url: str, durability: Durability, config_file: str = "the config") -> str:
    """Explain why the receiver does not use this Redis, and what to do, in one line."""
    return (
        f"Redis at {hide_password(redis_url)} does not keep the promise that a 202 means on disk: "
        f"{'; '.join(durability.problems)}. "
        f"Or accept the weaker promise with server.accept_weaker_durability: true in {config_file}"
    )


def examine_once(redis_url: str, max_body: int, timeout: float = 1.0) -> Durability:
    """Examine the Redis at `redis_url` on a connection of its own. Raises as `examine`."""

    async def connected() -> Durability:
        client = connect_async(redis_url, timeout=timeout, connect_timeout=timeout, retries=0)
        try:
            return await examine(client, max_body)
        finally:
            await client.aclose()

    return asyncio.run(connected())
