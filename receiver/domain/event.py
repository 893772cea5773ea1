"""An event on its way into the ledger, and the ids that all rests on. Pure: no I/O, no clock.

The ids are defined once, here:
    event id      evt_ + 32 hex digits of SHA-256(source, NUL, body)    the same body again is the same event
    delivery id   dlv_ + 32 hex digits of SHA-256(event id, NUL, sink)  the idempotency key of the delivery
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

Via = Literal["webhook", "poll", "import"]


def event_id(source: str, body: bytes) -> str:
    """Return the id of the event with `body` from `source`."""
    digest = hashlib.sha256(source.encode())
    digest.update(b"\0")
    digest.update(body)
    return "evt_" + digest.hexdigest()[:32]


def delivery_id(event: str, sink: str) -> str:
    """Return the id, and idempotency key, of the delivery of `event` to `sink`."""
    return "dlv_" + hashlib.sha256(f"{event}\0{sink}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Event:
    """One authentic inbound fact about a run.

    `body`: bytes exactly as received, not yet redacted. `received_at`: seconds since the epoch.
    `submission_id`: the token of the callback URL (which is not signed), or "". `packed`: the body as the inbox keeps
    it (packed_body.py) where somebody has packed it already, else b"".
    """

    id: str
    source: str
    body: bytes
    received_at: float
    via: Via = "webhook"
    submission_id: str = ""
    packed: bytes = field(default=b"", compare=False, repr=False)
