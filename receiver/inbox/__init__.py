"""The inbox: acknowledged events that are not yet in the ledger, in a Redis stream.

    runhook:inbox         the stream: `e` an event's frame, `m` the MACs of its head (receiver/domain/frame.py)
    group "dispatch"      its readers; an entry is acknowledged and deleted once the ledger has it
    runhook:inbox:aside   entries that were set aside: see set_aside.py

`ingest` adds to the stream by writer.py, and `dispatch` reads it by reader.py. recovery.py takes over the entries of a
dead dispatcher. No HTTP and no SQL here.
"""

from __future__ import annotations

from typing import Any, Final

STREAM: Final = "runhook:inbox"
GROUP: Final = "dispatch"
ASIDE: Final = "runhook:inbox:aside"


def depth_of(entries: Any, size: Any, aside: Any) -> tuple[int, int]:
    """Return (entries, bytes) of the inbox. The bytes include what was set aside: both share inbox.max_bytes.

    `entries`: the reply to XLEN, whose error is raised. `size`, `aside`: to MEMORY USAGE, maybe an error or nil.
    """
    if isinstance(entries, Exception):
        raise entries
    return int(entries), sum(each for each in (size if entries else 0, aside) if isinstance(each, int))
