"""Events as they are recorded: what follows a position.

Over HTTP the same call is a stream, unless only JSON is accepted: see tail_stream. A caller resumes where it was, and
gets a gap if retention may have removed events in between.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import call
from receiver.api.models import ByDelivery, FilterParameters, Moment, Result
from receiver.api.names import check_config_names, check_names
from receiver.api.rows import EventRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.redaction import Redactor
from receiver.errors import ConfigError
from receiver.ledger import Connection
from receiver.ledger.lists import tail
from receiver.ledger.lists.tail import Position, Tail

# Maximum events of one read, and reads of one call.
PAGE: Final = 500
_PAGES: Final = 10
# Seconds that a call waits for transactions that may still put an event before others, and between two reads.
_SETTLE: Final = 1.0
_LOOK: Final = 0.05


class TailParameters(FilterParameters, ByDelivery):
    """Which events, and after which: `after`, else all since `since`, else those from now on.

    `text` is searched in the title, the reason, and the first 256 KiB of the body, after redaction. Sinks and states
    are those that an event has when it is read.
    """


class TailEvent(EventRow):
    """An event with what is known of its run, and where it goes."""

    title: str | None
    workflow_id: str | None
    failure_reason: str | None
    labels: dict[str, str]
    sinks: list[str]
    routes: list[str]


class TailGap(Result):
    """What a caller may have missed: retention removed completed events that were recorded between these times."""

    since: Moment
    until: Moment


class TailPage(Result):
    """Events recorded after the position of the call, the oldest first. `next`: the position after them."""

    items: Sequence[TailEvent]
    next: str = Field(description="Cursor: give it as `after` for the events that follow; always present.")
    gap: TailGap | None = Field(None, description="What may be missing before these, because retention removed it.")


def encode(position: Position) -> str:
    """Return a position as clients keep it."""
    return cursor.encode("tail", position) or ""


def start(
    service: Service, actor: Actor, parameters: TailParameters, connection: Connection
) -> tuple[Tail, TailGap | None]:
    """Return the place after which the requested events begin, and what may be missing before it.

    Raises Invalid for a status, source, sink or route that cannot occur. An unknown run may still come.
    """
    now = service.ledger.known_now()
    # Raises LedgerDataError now: a stream that has begun could not tell its client.
    tail.load(connection, [0], parameters.filter(), Redactor(()))
    if (found := cursor.decode("tail", parameters.after, (int, float))) is not None:
        position = Position(*found)
        gap = None
        with suppress(ConfigError):  # without a config, it is unknown how long events are kept
            kept = service.config.retention.events
            if kept is not None and position.at < now - kept:
                gap = TailGap(since=position.at, until=now - kept)
        return Tail(tail.current_position(connection, position)), gap
    check_names(service, actor, connection, parameters.filter(), empty=False)
    check_config_names(service, connection, parameters.filter())
    begin = tail.newest(connection, now) if parameters.since is None else tail.since(connection, parameters.since)
    return Tail(begin), None


def follow(
    service: Service, parameters: TailParameters, place: Tail, connection: Connection
) -> tuple[Tail, list[TailEvent], bool]:
    """Return the place after the next PAGE events, those of them that match, and whether there may be more now."""
    try:
        redactor = Redactor(service.config.redact if parameters.text else ())
    except ConfigError:  # bodies are recorded with what the config masked at that time
        redactor = Redactor(())
    place, rows, more = tail.follow(connection, place, time.monotonic(), PAGE, parameters.filter(), redactor)
    return place, [_shown(row) for row in rows], more


def _shown(row: dict[str, Any]) -> TailEvent:
    sinks, routes = [sink for sink, _ in row["deliveries"]], sorted({route for _, route in row["deliveries"]} - {""})
    return TailEvent.model_validate({**row, "sinks": sinks, "routes": routes})


def read_tail(service: Service, actor: Actor, parameters: TailParameters) -> TailPage:
    """List events after a position, oldest first. Over HTTP it is a stream unless only JSON is accepted."""
    ledger, until = service.ledger, time.monotonic() + _SETTLE
    place, gap = ledger.read(functools.partial(start, service, actor, parameters))
    found: list[TailEvent] = []
    for _ in range(_PAGES):
        place, events, more = ledger.read(functools.partial(follow, service, parameters, place))
        found += events
        if len(found) >= parameters.limit:
            found = found[: parameters.limit]
            place = Tail(Position(found[-1].seq, found[-1].recorded_at))
            break
        if not more or time.monotonic() > until:
            break
        if place.gap:
            time.sleep(_LOOK)
    return TailPage(items=found, next=encode(place.position), gap=gap)


TAIL: Final = call("GET", "/tail", VIEW, read_tail, name="tail")
