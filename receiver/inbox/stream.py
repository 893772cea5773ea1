"""Where the inbox is in Redis, and how it is told when something else has written there.

    runhook:inbox           the stream: fields id, source, body, at (seconds since the epoch, as text), via, sub, mac;
                            where there is a size, the body is packed, and this its bytes unpacked
    group "dispatch"        its readers; an entry is acknowledged and deleted once the ledger has it
    runhook:inbox:unpacks   exists once a reader was there that reads packed bodies: no receiver writes them before

writer.py adds to it and reader.py reads it. What is taken and not finished, because its dispatcher died, is
recovery.py's; what is set aside aside.py's.
"""

from __future__ import annotations

from typing import Final

import redis

STREAM: Final = "runhook:inbox"
GROUP: Final = "dispatch"
# What was set aside: see aside.py.
ASIDE: Final = "runhook:inbox:aside"
UNPROVEN_ASIDE: Final = f"{ASIDE}:unproven"
UNPACKS: Final = "runhook:inbox:unpacks"

# What is said when something else has written the inbox's key, and what mends it.
SPOILT: Final = (
    f"the key {STREAM} in Redis is no stream, so something else has written it: move it away "
    f"(RENAME {STREAM} {STREAM}.wrong), and events go on by themselves"
)


def spoilt(error: BaseException | str) -> str:
    """Return SPOILT when `error` is Redis's answer that the inbox's key is no stream; "" for all other errors."""
    return SPOILT if isinstance(error, redis.ResponseError | str) and str(error).startswith("WRONGTYPE") else ""


def spoilt_as(kind: bytes | str) -> str:
    """Return SPOILT when the inbox's key is neither a stream nor free, by its TYPE; else ""."""
    return "" if kind in (b"stream", b"none") else SPOILT
