"""Events: the list, and one with its body."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal

import redis
from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.listing import ListEndpoint
from receiver.api.models import MAX_VALUES, ByDelivery, FilterParameters, Result, Scoped
from receiver.api.names import none_such, only
from receiver.api.rows import EventRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.counting import counted
from receiver.domain.deduplication import Disposition
from receiver.domain.durations import ago
from receiver.domain.redaction import Redactor
from receiver.errors import NotFound, TooLarge
from receiver.inbox import state as inbox
from receiver.ingest import spool
from receiver.ingest.quarantine import Quarantine
from receiver.ledger.lists import events as lists
from receiver.ledger.lists.bodies import EventBody, read_body
from receiver.ledger.lists.filters import Filter, id_trouble
from receiver.runtime.redis_client import connect

# Bytes of the largest body that is shown as a value, and of the largest that is returned.
LARGEST_VALUE: Final = 4 << 20
LARGEST: Final = 64 << 20
# Maximum levels of a value: serialisers fail at 255.
MAX_DEPTH: Final = 200
# Larger integers become strings: many readers make doubles of them.
_LARGEST_INTEGER: Final = 2**63


class EventsParameters(FilterParameters, ByDelivery):
    """Which events. Times are those of recording."""

    disposition: tuple[Literal[Disposition, "unreadable"], ...] = Field(
        (), max_length=MAX_VALUES, description="Filter by disposition: new, repeat, unreadable, …"
    )


class EventParameters(Scoped):
    """Which event."""

    event_id: str = Field(max_length=50, description="The event's id; or its beginning.")


class EventDetails(Result):
    """An event with its run, after redaction."""

    event: EventRow
    run: Any = Field(
        description="The run as sinks get it, with the same members for webhooks and polls. Null for a body that"
        " cannot be parsed or is too large: then take the body."
    )
    note: str = Field(description="Why the run is missing or incomplete; else empty.")


class KeptBody(Result):
    """The bytes of a body as received, after redaction."""

    event_id: str
    source: str
    size: int = Field(description="Bytes.")
    encoding: Literal["utf-8", "base64"] = Field(description="How `body` is encoded; base64 when it is not UTF-8.")
    body: str

    def content(self) -> bytes:
        """Return the bytes."""
        return self.body.encode() if self.encoding == "utf-8" else base64.b64decode(self.body)


def get_event(service: Service, _actor: Actor, parameters: EventParameters) -> EventDetails:
    """Return one event, with the run as sinks get it."""
    row = _event_row(service, parameters)
    event = EventRow.model_validate(row)
    if event.size > LARGEST_VALUE:
        return EventDetails(event=event, run=None, note=f"the body is over {LARGEST_VALUE >> 20} MiB")
    body = _body(service, row)
    return EventDetails(event=event, run=json_safe(body.run) if body.run else None, note=body.problem)


def get_event_body(service: Service, _actor: Actor, parameters: EventParameters) -> KeptBody:
    """Return the stored body of one event."""
    row = _event_row(service, parameters)
    if row["size"] > LARGEST:
        raise TooLarge(f"event {row['id']}: its body of {row['size']} bytes is over {LARGEST >> 20} MiB")
    body = _body(service, row).redacted
    known = {"event_id": row["id"], "source": row["source"], "size": len(body)}
    try:
        return KeptBody(**known, encoding="utf-8", body=body.decode())
    except UnicodeDecodeError:
        return KeptBody(**known, encoding="base64", body=base64.b64encode(body).decode())


def _event_row(service: Service, parameters: EventParameters) -> Mapping[str, Any]:
    which = Filter(source=parameters.source, event_id=parameters.event_id)
    rows, _ = service.ledger.read(lambda connection: lists.list_events(connection, which, None, 2))
    is_id = parameters.event_id.startswith("evt_") and not id_trouble(parameters.event_id)
    if not rows and is_id and (where := _waiting(service, parameters)):
        raise NotFound(f"event {parameters.event_id}: {where}")
    return only("event", parameters.event_id, rows)


def _waiting(service: Service, parameters: EventParameters) -> str:
    """Return since when an acknowledged event waits to be processed, and where; "" if it is neither in the inbox nor in
    the spool of this machine."""
    found, where, unknown = None, "in the inbox", ""
    client = connect(service.settings.redis_url, timeout=2.0, connect_timeout=1.0, retries=0)
    try:
        found = inbox.find(client, parameters.event_id)
    except (redis.RedisError, OSError):
        unknown = "not in the ledger; Redis is unavailable, so it may still be in the inbox"
    client.close()
    if found is None:
        where = "in the spool, which is sent to Redis when that is available"
        with suppress(OSError):
            spooled = spool.find(service.settings.data / "spool", parameters.event_id)
            found = None if spooled is None else inbox.WaitingEvent(*spooled)
            refused = Quarantine(service.settings.data / "quarantine", 0, 0).list() if found is None else ()
            if any(it.id.startswith(parameters.event_id) and parameters.source in ("", it.source) for it in refused):
                return "its signature was refused, and it is in the quarantine here: see `runhook quarantine list`"
    if found is None or parameters.source not in ("", found.source):
        return unknown
    ahead = counted(f"{found.ahead:,}", "event is", "events are")
    return f"accepted {ago(time.time() - found.at)} ago and not yet processed: it is {where}; {ahead} ahead of it"


def _body(service: Service, row: Mapping[str, Any]) -> EventBody:
    redactor = Redactor(service.config.redact)
    body = service.ledger.read(lambda connection: read_body(connection, row["id"], redactor, row["source"]))
    if body is None:  # retention removed it
        raise none_such("event", row["id"])
    return body


def json_safe(value: Any, depth: int = 0) -> Any:
    """Return `value` without what breaks JSON readers: lone surrogates, NaN, huge integers, depth."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -_LARGEST_INTEGER <= value < _LARGEST_INTEGER else _digits(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth >= MAX_DEPTH:
        return "… nested too deeply"
    if isinstance(value, Mapping):
        return {json_safe(str(name)): json_safe(each, depth + 1) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(each, depth + 1) for each in value]
    return str(value)


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # of more digits than Python prints
        return f"an integer of {value.bit_length()} bits"


LIST_EVENTS: Final = ListEndpoint(
    EventRow, EventsParameters, lists.list_events, (float, int), "List events without their bodies, newest first."
)
GET_EVENT: Final = call("GET", "/events/{event_id}", VIEW, get_event)
GET_EVENT_BODY: Final = call("GET", "/events/{event_id}/body", VIEW, get_event_body)
