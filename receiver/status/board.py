"""Where heartbeats are written and read: Redis, and a folder of the data directory. The ledger's are its own.

runhook:parts           a hash in Redis: by process, "<server's time> <JSON>"
parts/id                in the data directory: which one it is, wherever it is mounted
parts/<name>.json       in the data directory: what this machine knows when Redis and the ledger are both away; a line
                        for each part that the process is
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import redis

from handlers.support.private_file import make_private_file
from receiver.domain.parts import FORGET_AFTER, PartBeat, PartSeen

KEY: Final = "runhook:parts"
_MOST: Final = 10_000  # entries that are read: anybody who reaches Redis can write more

# The time is the server's: clocks of hosts differ. A key of another type is a stranger's, and goes.
# KEYS: hash. ARGV: seconds that it lives without a heartbeat; names and heartbeats, alternating.
_PUT = """
local now = redis.call('TIME')
local stamp = now[1] .. '.' .. string.format('%06d', now[2]) .. ' '
local beats = {unpack(ARGV, 2)}
for place = 2, #beats, 2 do beats[place] = stamp .. beats[place] end
local new = redis.pcall('HSET', KEYS[1], unpack(beats))
if type(new) == 'table' and string.find(new.err, 'WRONGTYPE', 1, true) then
  redis.call('DEL', KEYS[1])
  new = redis.call('HSET', KEYS[1], unpack(beats))
end
if type(new) == 'number' then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return new
"""


def put(client: redis.Redis, *beats: PartBeat) -> None:
    """Write the newest heartbeats of a process, one for each part that it is. Raises redis.RedisError."""
    client.eval(_PUT, 1, KEY, int(FORGET_AFTER), *(text for each in beats for text in (each.name, each.to_json())))


def every(client: redis.Redis) -> list[PartSeen]:
    """Return the newest heartbeat of each process. What can't be read is left out. Raises redis.RedisError."""
    with client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.hlen(KEY)
        (seconds, micros), count = pipeline.execute()
    if count > _MOST:
        raise redis.ResponseError(f"{KEY} has {count} entries, which Runhook did not write: delete it")
    now = seconds + micros / 1e6
    fields: Any = client.hgetall(KEY)
    return [seen for value in fields.values() if (seen := _parsed(value, now)) is not None]


def _parsed(value: bytes, now: float) -> PartSeen | None:
    at, _, text = value.partition(b" ")
    with suppress(ValueError):
        beat, came = PartBeat.from_json(text), float(at)
        if beat is not None and abs(came) < float("inf"):
            return PartSeen(beat, now - came, skew=beat.sent_at - came)
    return None


def forget(client: redis.Redis) -> int:
    """Remove what came longer than FORGET_AFTER ago. Returns how many. Raises redis.RedisError."""
    old = [seen.beat.name for seen in every(client) if seen.age > FORGET_AFTER]
    return int(client.hdel(KEY, *old)) if old else 0


def put_file(directory: Path, *beats: PartBeat) -> None:
    """Write the heartbeats of a process of this machine, one for each part that it is, into one file of the data
    directory; a process that ended has none. Raises OSError.
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
    """Return what tells this data directory from all others, wherever it is mounted: 16 hex digits, made once.

    Returns "" where it can't be read or written.
    """
    path = directory / "parts" / "id"
    with suppress(OSError):
        with suppress(FileExistsError):
            draft = path.with_name(f"id.{token_hex(4)}")
            make_private_file(draft)
            draft.write_text(token_hex(8))
            try:
                os.link(draft, path)  # whole, and by one process only
            finally:
                draft.unlink()
        return path.read_text()[:16]
    return ""


def every_file(directory: Path) -> list[PartSeen]:
    """Return the heartbeats in the data directory; those that came longer than FORGET_AFTER ago are removed."""
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
