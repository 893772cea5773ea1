"""What a program that pulls gets to see of a delivery, the same for every kind of queue. Pure; it knows no queue.

The body goes as it was received. Beside it stand fields, so that a consumer can choose without parsing:
    key  event_id  source  run_id  run_type  outcome  via  received_at  encoding  test
`encoding` says how the body was put in: whole, base64 (not text that the queue takes), or omitted (larger than it
takes; a small object stands in its place and says where the body is kept). Fields without a value are left out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from handlers.contract import Delivery

Encoding = Literal["whole", "base64", "omitted"]

FIELD_MAX = 256  # characters
URLS_MAX = 50
URL_MAX = 2000
# XML 1.0 text, which is what SQS and SNS take.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUP = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """`group`: what keeps its order in a FIFO queue, the run. `note`: for the receipt, "" when the body is whole."""

    key: str
    group: str
    fields: Mapping[str, str]
    body: bytes
    note: str = ""

    @property
    def text(self) -> str:
        """The body as text. Only for messages that `as_text` made."""
        return self.body.decode()


def as_bytes(delivery: Delivery) -> QueueMessage:
    """For a queue that takes any bytes of any length."""
    return QueueMessage(delivery.key, group_of(delivery), _fields(delivery, "whole"), delivery.body)


def as_text(delivery: Delivery, limit: int) -> QueueMessage:
    """For a queue that takes XML's text of `limit` bytes, fields included: what is larger is told of, not sent."""
    how: Encoding = "whole" if _is_text(delivery.body) else "base64"
    body = delivery.body if how == "whole" else base64.b64encode(delivery.body)
    fields = _fields(delivery, how)
    if body and len(body) + _size(fields) <= limit:
        return QueueMessage(delivery.key, group_of(delivery), fields, body)
    note = f"the body of {len(delivery.body):,} bytes is not in the message: the queue does not take it"
    return QueueMessage(delivery.key, group_of(delivery), _fields(delivery, "omitted"), _stand_in(delivery), note)


def size(message: QueueMessage) -> int:
    """Bytes as SQS and SNS count them: body, and names, types and values of the fields."""
    return len(message.body) + _size(message.fields)


def group_of(delivery: Delivery) -> str:
    """The run, in characters that a FIFO group may have."""
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


def _stand_in(delivery: Delivery) -> bytes:
    """A small JSON object in the place of a body: what the run is, and where its body is kept."""
    urls: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        found: Any = receipt.get("urls") if isinstance(receipt, Mapping) else None
        for name, url in found.items() if isinstance(found, Mapping) else ():
            if len(urls) < URLS_MAX and len(str(url)) <= URL_MAX:
                urls.setdefault(str(name)[:FIELD_MAX], str(url))
    stand_in = {
        "run_id": delivery.run_id[:FIELD_MAX],
        "run_type": delivery.run_type[:FIELD_MAX],
        "status": delivery.status[:FIELD_MAX],
        "omitted": {
            "bytes": len(delivery.body),
            "sha256": hashlib.sha256(delivery.body).hexdigest(),
            "event_id": delivery.event_id,
            "urls": urls,
        },
    }
    return json.dumps(stand_in, separators=(",", ":")).encode()


def _is_text(body: bytes) -> bool:
    try:
        return bool(body) and not _NOT_TEXT.search(body.decode())
    except UnicodeDecodeError:
        return False


def _size(fields: Mapping[str, str]) -> int:
    return sum(len(name) + len("String") + len(value.encode()) for name, value in fields.items())
