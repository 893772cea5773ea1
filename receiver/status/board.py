"""Write and read heartbeats in Redis, the ledger (`receiver.ledger.heartbeats`) and the data directory.

runhook:parts           a hash in Redis: by process, "<server's time> <JSON>"
parts/id                in the data directory: its id, the same wherever it is mounted
parts/<name>.json       in the data directory: the heartbeats of this machine, for when Redis and the ledger are both
                        unavailable; one line for each role of the process
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import redis

from handlers.support.private_file import make_private_file
from receiver.domain import parts
from receiver.domain.parts import FORGET_AFTER, PartBeat, PartSeen
from receiver.ledger import Ledger, LedgerUnavailable, heartbeats
from receiver.runtime.liveness import process_space, process_state
from receiver.runtime.redis_client import connect

KEY: Final = "runhook:parts"
# Above _MANY entries, old ones are removed; above _MOST, none is read. A program that restarts repeatedly leaves one
# each time, and any program that reaches Redis can write more.
_MANY: Final = 1_000
_MOST: Final = 10_000

# The time is the server's, because clocks of hosts differ.
# KEYS: hash. ARGV: seconds until the hash expires without a heartbeat; number of entries above which those older than
# a minute are removed; names and heartbeats, alternating.
_PUT: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local beats = {unpack(ARGV, 3)}
for place = 2, #beats, 2 do beats[place] = string.format('%.6f ', now) .. beats[place] end
redis.call('HSET', KEYS[1], unpack(beats))
redis.call('EXPIRE', KEYS[1], ARGV[1])
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
  local all = redis.call('HGETALL', KEYS[1])
  for place = 1, #all, 2 do
    local at = tonumber(string.match(all[place + 1], '^[0-9.]+ ')) or 0
    if math.abs(now - at) > 60 then redis.call('HDEL', KEYS[1], all[place]) end
  end
end
"""


def put(client: redis.Redis, *beats: PartBeat) -> None:
    """Write the newest heartbeats of a process, one for each of its roles. Raises redis.RedisError."""
    client.eval(
        _PUT, 1, KEY, int(FORGET_AFTER), _MANY, *(text for each in beats for text in (each.name, each.to_json()))
    )


def every(client: redis.Redis) -> list[PartSeen]:
    """Return the newest heartbeat of each process, except those unreadable or older than FORGET_AFTER.

    Returns an empty list above _MOST entries, until the next heartbeat removes old ones. Raises redis.RedisError.
    """
    with client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.hlen(KEY)
        (seconds, micros), count = pipeline.execute()
    now = seconds + micros / 1e6
    fields: Any = client.hgetall(KEY) if count <= _MOST else {}
    found = [_parsed(value, now) for value in fields.values()]
    return [seen for seen in found if seen is not None and seen.age <= FORGET_AFTER]


def _parsed(value: bytes, now: float) -> PartSeen | None:
    at, _, text = value.partition(b" ")
    with suppress(ValueError):
        beat, came = PartBeat.from_json(text), float(at)
        if beat is not None and abs(came) < float("inf"):
            return PartSeen(beat, now - came, skew=beat.sent_at - came)
    return None


def put_file(directory: Path, *beats: PartBeat) -> None:
    """Write the heartbeats of a local process, one for each of its roles, to one file of the data directory.

    Removes the file of a process that has stopped. Raises OSError.
    """
    path = directory / "parts" / f"{beats[0].name.replace('/', '_')}.json"
    if beats[0].stopped:
        path.unlink(missing_ok=True)
        return
    draft = path.with_suffix(".new")
    make_private_file(draft)
    draft.write_text("\n".join(each.to_json() for each in beats))
    draft.replace(path)


def directory_id(directory: Path) -> str:
    """Return the unique id of this data directory: 16 hex digits, created once and the same wherever it is mounted.

    Returns "" if the id cannot be read or written.
    """
    path = directory / "parts" / "id"
    with suppress(OSError):
        with suppress(FileExistsError):
            draft = path.with_name(f"id.{token_hex(4)}")
            make_private_file(draft)
            draft.write_text(token_hex(8))
            try:
                os.link(draft, path)  # atomic, and only one process succeeds
            finally:
                draft.unlink()
        return path.read_text()[:16]
    return ""


def every_file(directory: Path) -> list[PartSeen]:
    """Return the heartbeats in the data directory, and remove those older than FORGET_AFTER."""
    found = []
    for path in sorted((directory / "parts").glob("*.json")):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > FORGET_AFTER:
                path.unlink()
            else:
                beats = map(PartBeat.from_json, path.read_bytes().splitlines())
                found += [PartSeen(beat, age) for beat in beats if beat is not None]
    return found


def merged(*stores: Iterable[PartSeen]) -> list[PartSeen]:
    """Return each process once, with what the kernel knows of those that this process can see.

    A heartbeat alone shows the end of a process only after SILENT_AFTER seconds.
    """
    space = process_space()
    return [
        each
        if each.beat.stopped or each.beat.details.get("space") != space
        else replace(each, process=process_state(each.beat.pid))
        for each in parts.merge(*stores)
    ]


@dataclass(frozen=True, slots=True)
class PartsReport:
    """The heartbeats of all processes. `redis`, `ledger`: why that store could not be read, or ""."""

    seen: list[PartSeen] = field(default_factory=list)
    redis: str = ""
    ledger: str = ""


class PartsWatch:
    """Reads heartbeats. Safe to call from any thread; one thread reads at a time.

    `ledger`: not closed here. `within`: maximum seconds for the ledger; None: its own limits.
    """

    def __init__(self, redis_url: str, ledger: Ledger, *, within: float | None = None) -> None:
        self._redis = connect(redis_url, timeout=1.0, connect_timeout=1.0, retries=1)
        self._ledger = ledger
        self._within = within
        self._lock = threading.Lock()

    def read(self) -> PartsReport:
        """Return the heartbeats of all processes. Reports an unavailable store instead of raising."""
        stores: list[list[PartSeen]] = []
        trouble = {"redis": "", "ledger": ""}
        with self._lock:
            try:
                stores.append(every(self._redis))
            except redis.RedisError as error:
                trouble["redis"] = str(error) or type(error).__name__
            try:
                stores.append(self._ledger.read(heartbeats.every, self._within))
            except LedgerUnavailable as error:
                trouble["ledger"] = str(error)
        return PartsReport(merged(*stores), **trouble)

    def close(self) -> None:
        """Close the connection to Redis."""
        self._redis.close()
