"""A Redis (or Valkey) stream as the queue: XADD once for each key.

One script atomically writes the entry and a marker with the delivery's key: within `once_for` seconds a delivery is
never added twice, even after a lost response. The durability of an accepted entry depends on that Redis's
`appendfsync`. This module knows messages, not deliveries or runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from handlers.contract import Receipt, Refused, SinkError, Unavailable
from handlers.queue.message import QueueMessage

# KEYS: the stream, the marker. ARGV: max length (0: no limit), seconds that the marker lives, then fields and values.
_ADD_ONCE = """
local known = redis.call('GET', KEYS[2])
if known then return known end
local add = {'XADD', KEYS[1]}
if tonumber(ARGV[1]) > 0 then
  add[3], add[4], add[5] = 'MAXLEN', '~', ARGV[1]
end
add[#add + 1] = '*'
for i = 3, #ARGV do add[#add + 1] = ARGV[i] end
local id = redis.call(unpack(add))
redis.call('SET', KEYS[2], id, 'EX', ARGV[2])
return id
"""


class RedisStream:
    """A stream as a queue. Connects at the first message. Thread-safe."""

    def __init__(self, url: str, stream: str, max_len: int, once_for: int, timeout: float) -> None:
        self._url = url
        self._stream = stream
        self._limits = (max_len, once_for)
        self._timeout = timeout
        self._client: redis.Redis | None = None
        self._guard = threading.Lock()

    def put(self, messages: Sequence[QueueMessage]) -> list[Receipt | SinkError]:
        """Add the messages in one round trip. Raises Unavailable when Redis can't be used."""
        pipeline = self._connected().pipeline(transaction=False)
        for message in messages:
            fields: list[str | bytes] = [part for pair in message.fields.items() for part in pair]
            fields += ["body", message.body]
            # Braces keep stream and marker on one cluster node.
            marker = f"{{{self._stream}}}:once:{message.key}"
            pipeline.eval(_ADD_ONCE, 2, self._stream, marker, *self._limits, *fields)
        try:
            answers = pipeline.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise _to_sink_error(error) from None
        return [self._receipt(answer, message) for answer, message in zip(answers, messages, strict=True)]

    def close(self) -> None:
        """Close the connections. The next message opens new ones."""
        with self._guard:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _receipt(self, answer: Any, message: QueueMessage) -> Receipt | SinkError:
        if isinstance(answer, Exception):
            return _to_sink_error(answer)
        entry = answer.decode() if isinstance(answer, bytes) else str(answer)
        return Receipt(entry, keys=(f"{self._stream}/{entry}",), note=message.note)

    def _connected(self) -> redis.Redis:
        with self._guard:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    self._url,
                    socket_timeout=self._timeout / 2,
                    socket_connect_timeout=min(5.0, self._timeout / 2),
                    # A connection that was idle while Redis restarted; the script makes a second try harmless.
                    retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
                )
            return self._client


# By redis-py's class, or by the first word of errors without a class.
_MESSAGES: Mapping[str, str] = {
    "AuthenticationError": "it does not take the user or password",
    "WRONGPASS": "it does not take the user or password",
    "NOAUTH": "it wants a password",
    "NoPermissionError": "its user may not write there; EVAL, GET, SET and XADD are needed",
    "WRONGTYPE": "the key of that name is not a stream",
    "OutOfMemoryError": "it has no memory left for writes",
    "OOM": "it has no memory left for writes",
    "ReadOnlyError": "it is a read-only replica",
    "BusyLoadingError": "it is still loading its data",
    "MISCONF": "it can't write to its disk",
    "MovedError": "it is a node of a cluster that does not hold the stream",
}


def _to_sink_error(error: Exception) -> SinkError:
    """Return the error for a Redis error, without its message, which may quote data."""
    if isinstance(error, redis.TimeoutError):
        return Unavailable("Redis did not respond in time")
    text = str(error)
    kinds = [kind.__name__ for kind in type(error).__mro__]
    for name, meaning in _MESSAGES.items():
        if name in kinds or text.startswith(name):
            return Unavailable(f"Redis refuses: {meaning}")
    if isinstance(error, redis.ConnectionError):
        return Unavailable("Redis can't be reached")
    if "maximum allowed size" in text or "too big" in text:
        return Refused("the body exceeds Redis's limit")
    return Unavailable(f"Redis refuses ({type(error).__name__})")
