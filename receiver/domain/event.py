"""An event on its way into the ledger, and the ids that all rests on. Pure: no I/O, no clock.

The ids are defined once, here:
    event id      evt_ + second + 24 hex digits of SHA-256(source, NUL, body)    the same body again is the same event
    delivery id   dlv_ + second + 24 hex digits of SHA-256(event id, NUL, sink)  the idempotency key of the delivery

`second`: 8 characters that say when the run was made, as its id in the body does. So entries of indexes that begin with
an id stand beside those of runs of the same time, and a large ledger costs what a small one does (decision 19). Its
first character is a letter from g to v: a body without such an id has 32 hex digits of the hash.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal

Via = Literal["webhook", "poll", "import"]

# An id of a run holds the second in which it was made, above 32 bits of who made it
# (skyvern/forge/sdk/db/id.py). Whichever stands first will do: the same body has the same.
_RUN_ID: Final = re.compile(rb'"(?:tsk|wr)_(?:v2_)?([0-9]{15,20})"')
_BEGINNING: Final = 4096  # bytes of a body in which it is looked for
_LETTERS: Final = "ghijklmnopqrstuv"
# The problem of an event whose run was erased: its body is empty.
ERASED: Final = "its run was erased"
# In the problem of an event for which a rule failed.
UNEVALUATED: Final = "can't be evaluated"
# Characters of an id that tables show: evt_, the second, and 4 hex digits.
SHORT_ID: Final = 16


def event_id(source: str, body: bytes) -> str:
    """Return the id of the event with `body` from `source`."""
    hashed = _hash_of(source, body)
    if match := _RUN_ID.search(body, 0, _BEGINNING):
        second = int(match[1]) >> 32 & 0xFFFFFFFF
        return f"evt_{_LETTERS[second >> 28]}{second & 0xFFFFFFF:07x}{hashed[:24]}"
    return "evt_" + hashed[:32]


def delivery_id(event: str, sink: str) -> str:
    """Return the id, and idempotency key, of the delivery of `event` to `sink`."""
    hashed = hashlib.sha256(f"{event}\0{sink}".encode()).hexdigest()
    return f"dlv_{event[4:12]}{hashed[:24]}" if event[4:5] >= "g" else "dlv_" + hashed[:32]


def short_id(identifier: str) -> str:
    """Return the beginning of an event's, delivery's or submission's id, as all tables show it.

    Commands take one of an event or delivery that is cut so. Ids of operations are shorter, and not cut.
    """
    return identifier[:SHORT_ID]


def _hash_of(source: str, body: bytes) -> str:
    digest = hashlib.sha256(source.encode())
    digest.update(b"\0")
    digest.update(body)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """One authentic inbound fact about a run.

    `body`: bytes exactly as received, not yet redacted. `received_at`: seconds since the epoch.
    `submission_id`: the token of the callback URL (which is not signed), or "".
    """

    id: str
    source: str
    body: bytes
    received_at: float
    via: Via = "webhook"
    submission_id: str = ""
