"""Build the message of a delivery, for any kind of queue. Pure.

The received body is sent unchanged. Fields let a consumer filter without parsing:
    key  event_id  source  run_id  run_type  outcome  via  received_at  encoding  test
`encoding`: whole, base64 (not valid text for the queue), or omitted (too large for the queue; a small object says where
the body is stored). Empty fields are left out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from handlers.contract import Delivery
from handlers.support.wording import stored_links

Encoding = Literal["whole", "base64", "omitted"]

# Characters of a field.
FIELD_MAX = 256
URLS_MAX = 50
URL_MAX = 2000
# SQS and SNS accept XML 1.0 text.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUP = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A message. `group`: the FIFO group, which is the run. `note`: for the receipt, "" for a complete body."""

    key: str
    group: str
    fields: Mapping[str, str]
    body: bytes
    note: str = ""


def as_bytes(delivery: Delivery) -> QueueMessage:
    """Return the message for a queue without limits on bytes or length."""
    return QueueMessage(delivery.key, group_of(delivery), _fields(delivery, "whole"), delivery.payload)


def as_text(delivery: Delivery, limit: int) -> QueueMessage:
    """Return the message for a queue of XML text, up to `limit` bytes with fields; a larger body is omitted."""
    how: Encoding = "whole" if _is_text(delivery.payload) else "base64"
    body = delivery.payload if how == "whole" else base64.b64encode(delivery.payload)
    fields = _fields(delivery, how)
    if body and len(body) + _size(fields) <= limit:
        return QueueMessage(delivery.key, group_of(delivery), fields, body)
    note = f"the body of {len(delivery.payload):,} bytes is not in the message: the queue does not take it"
    return QueueMessage(delivery.key, group_of(delivery), _fields(delivery, "omitted"), _substitute(delivery), note)


def size(message: QueueMessage) -> int:
    """Return the bytes as SQS and SNS count them: body, and names, types and values of the fields."""
    return len(message.body) + _size(message.fields)


def group_of(delivery: Delivery) -> str:
    """Return the run's id if valid as a FIFO group, else its hash."""
    run = delivery.run_id or delivery.event_id
    return run if _GROUP.fullmatch(run) else hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()


def _fields(delivery: Delivery, encoding: Encoding) -> dict[str, str]:
    fields = {
        "key": delivery.key,
        "event_id": delivery.event_id,
        "source": delivery.source,
        "run_id": delivery.run_id,
        "run_type": delivery.run_type,
        "outcome": delivery.status,
        "via": delivery.via,
        "received_at": delivery.received_at.isoformat(),
        "encoding": encoding,
        "test": "true" if delivery.test else "",
    }
    return {name: _NOT_TEXT.sub("\ufffd", value)[:FIELD_MAX] for name, value in fields.items() if value}


def _substitute(delivery: Delivery) -> bytes:
    """Return a small JSON object to replace a body: the run, and where its body is stored."""
    links = [(name[:FIELD_MAX], url) for name, url in stored_links(delivery) if len(url) <= URL_MAX]
    substitute = {
        "run_id": delivery.run_id[:FIELD_MAX],
        "run_type": delivery.run_type[:FIELD_MAX],
        "status": delivery.status[:FIELD_MAX],
        "omitted": {
            "bytes": len(delivery.payload),
            "sha256": hashlib.sha256(delivery.payload).hexdigest(),
            "event_id": delivery.event_id,
            "urls": dict(links[:URLS_MAX]),
        },
    }
    return json.dumps(substitute, separators=(",", ":")).encode()


def _is_text(body: bytes) -> bool:
    try:
        return bool(body) and not _NOT_TEXT.search(body.decode())
    except UnicodeDecodeError:
        return False


def _size(fields: Mapping[str, str]) -> int:
    return sum(len(name) + len("String") + len(value.encode()) for name, value in fields.items())
