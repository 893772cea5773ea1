"""Flags, wake-ups and nudges: the side of those who have work for a queue. See the package for the protocol."""
# mypy: disable-error-code="no-untyped-call"
# redis-py leaves execute_command untyped.

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, Final

import redis

from receiver.wakeups.record import (
    DISPATCH,
    QUEUES_KEY,
    deliver_queue,
    job_fields,
    job_key,
    queue_key,
    timestamp,
)

# Seconds after which a flag lapses whose wake-up was lost: the clock then wakes the queue again.
FLAG_TTL: Final = 10

# Seconds that a job's record may live, so that no orphan stays for ever.
RECORD_TTL: Final = 3600

# Wake-ups that a queue may hold: there is one at a time, and another one after each of what sweeps and deaths force.
_MOST: Final = 100

# KEYS: flag, queue, job record, set of queues, nudge list.
# ARGV: flag's seconds, record's seconds, job id, nudge?, force?, most wake-ups, the record's names and values.
# A flag that never lapses, or later than ours do, is somebody else's, and is down; a key of another type goes, and so
# does a queue that holds more than wake-ups of ours.
_SCRIPT = """
local lapses = redis.call('PTTL', KEYS[1])
if lapses > 0 and lapses <= ARGV[1] * 1000 and ARGV[5] == '0' then
  if ARGV[4] == '1' then
    redis.call('DEL', KEYS[5])
    redis.call('RPUSH', KEYS[5], '1')
    redis.call('EXPIRE', KEYS[5], ARGV[1])
  end
  return 0
end
for key, kind in pairs({[KEYS[2]] = 'list', [KEYS[4]] = 'set'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then redis.call('DEL', key) end
end
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[1])
local waiting = redis.call('LLEN', KEYS[2])
if waiting > 0 and waiting <= tonumber(ARGV[6]) then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[3], unpack(ARGV, 7))
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[3])
return 1
"""


def flag_key(queue: str) -> str:
    """Return the Redis key of the flag that is up while a wake-up of `queue` is outstanding."""
    return f"runhook:wake:{queue}"


def nudge_key(queue: str) -> str:
    """Return the Redis key of the list on which an idle job of `queue` waits for more work."""
    return f"runhook:nudge:{queue}"


def wake_command(queue: str, *, force: bool = False) -> tuple[Any, ...]:
    """Return the wake-up as one Redis command, for `execute_command(*wake_command(queue))` of any client or pipeline,
    sync or async: work and wake-up can travel in one transaction. Its reply is 1 when a wake-up was enqueued, else 0.

    `force`: also when the flag is up, for a caller that raised it itself or knows that its wake-up was lost.
    """
    job_id = uuid.uuid4().hex
    stamp = timestamp()
    keys = (
        flag_key(queue),
        queue_key(queue),
        job_key(job_id),
        QUEUES_KEY,
        nudge_key(queue),
    )
    nudges = 0 if queue == DISPATCH else 1  # an idle dispatcher waits on the inbox itself
    arguments = (FLAG_TTL, RECORD_TTL, job_id, nudges, int(force), _MOST)
    times = ("created_at", stamp, "enqueued_at", stamp)
    return ("EVAL", _SCRIPT, len(keys), *keys, *arguments, *job_fields(queue), *times)


def wake(client: redis.Redis, queue: str, *, force: bool = False) -> bool:
    """Enqueue a wake-up for `queue` unless one is outstanding; then an idle job is nudged instead.

    Call it after the work is committed. `force`: see `wake_command`. True if it enqueued one. Raises redis.RedisError.
    """
    return bool(client.execute_command(*wake_command(queue, force=force)))


def wake_dispatcher(client: Any) -> Any:
    """Wake the dispatcher. Returns what `wake` does, or an awaitable from an async client. Raises redis.RedisError."""
    return client.execute_command(*wake_command(DISPATCH))


def wake_sinks(client: redis.Redis, sinks: Iterable[str]) -> int:
    """Wake the queues of `sinks` in one round trip. Returns how many wake-ups it enqueued. Raises redis.RedisError."""
    pipeline = client.pipeline(transaction=False)
    for command in wake_sinks_commands(sinks):
        pipeline.execute_command(*command)
    return sum(pipeline.execute())


def try_to_wake_sinks(client: redis.Redis, sinks: Collection[str]) -> None:
    """Wake the queues of `sinks`, if there are any. Without Redis the clock does, as soon as it is back."""
    if sinks:
        with suppress(redis.RedisError):
            wake_sinks(client, sinks)


def wake_sinks_commands(sinks: Iterable[str]) -> list[tuple[Any, ...]]:
    """Return the wake-ups of the queues of `sinks` as commands: see `wake_command`."""
    return [wake_command(deliver_queue(sink)) for sink in sinks]


def lower_flag(client: redis.Redis, queue: str) -> None:
    """Lower the flag, so that new work enqueues a new wake-up. Poll for work once more after this: see `finish`."""
    client.delete(flag_key(queue))


def finish(client: redis.Redis, queue: str, more: Callable[[], bool]) -> bool:
    """Finish a job: lower the flag, poll for work once more, wake again if there is some.

    `more` must see all work that was committed before it is called. True if it found some. Raises redis.RedisError.
    """
    lower_flag(client, queue)
    if not more():
        return False
    wake(client, queue)
    return True
