"""Where the inbox is in Redis, and what is said when something else has written there.

    runhook:inbox         the stream: `e` an event's frame, `m` the MACs of its head (receiver/domain/frame.py)
    group "dispatch"      its readers; an entry is acknowledged and deleted once the ledger has it
    runhook:inbox:aside   entries that were set aside: see aside.py

writer.py adds to the stream and reader.py reads it. recovery.py takes what a dead dispatcher had taken.
"""

from __future__ import annotations

from typing import Final

import redis

STREAM: Final = "runhook:inbox"
GROUP: Final = "dispatch"
# What was set aside: see aside.py.
ASIDE: Final = "runhook:inbox:aside"

# The error, with its fix, when another program has written the inbox's key.
SPOILT: Final = (
    f"the key {STREAM} in Redis is not a stream, so another program has written it: rename it "
    f"(RENAME {STREAM} {STREAM}.wrong), and Runhook resumes automatically"
)


def spoilt(error: BaseException | str) -> str:
    """Return SPOILT if `error` means that the inbox's key has the wrong type; "" for other errors."""
    return SPOILT if isinstance(error, redis.ResponseError | str) and str(error).startswith("WRONGTYPE") else ""


def spoilt_as(kind: bytes | str) -> str:
    """Return SPOILT when the inbox's key is neither a stream nor free, by its TYPE; else ""."""
    return "" if kind in (b"stream", b"none") else SPOILT
