"""Events as they are recorded: what follows a position, for those that ask again and again.

Over HTTP the same call is a stream, unless JSON is asked for: see tail_stream. There and here a caller goes on where it
was, and is told when something between may have been removed meanwhile.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.models import MAX_VALUES, FilterParameters, Moment, Result
from receiver.api.names import check_may_come, check_names
from receiver.api.rows import EventRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.delivery import DeliveryState
from receiver.domain.redaction import Redactor
from receiver.errors import ConfigError
from receiver.ledger import Connection, tail
from receiver.ledger.filters import Filter
from receiver.ledger.tail import Position, Tail

# Events that one read takes; a call reads so many pages of them at the most.
PAGE: Final = 500
_PAGES: Final = 10
# Seconds for which all that a caller has not seen yet is there, whatever retention says.
_MISSES_NOTHING: Final = 60.0
# Seconds for which a call waits for transactions that may still put an event before others, and between two looks.
_SETTLE: Final = 1.0
_LOOK: Final = 0.05


class TailParameters(FilterParameters):
    """Which events, and after which: `after`, else all since `since`, else those from now on.

    `text` is looked for in the title, the reason, and the first 256 KiB of the body, after
    redaction. Sinks and states are those that an
    event has when it is read.
    """

    event_id: str = Field("", max_length=50, description="Only this event; its beginning will do.")
    route: str = Field("", max_length=200, description="Only events that this route has sent on.")
    sink: str = Field("", max_length=200, description="Only events with a delivery to this sink.")
    state: tuple[DeliveryState, ...] = Field(
        (), max_length=MAX_VALUES, description="Only events with a delivery in this state."
    )

    def from_anywhere(self) -> TailParameters:
        """Return the same without a place to begin: all who ask for the same events share that."""
        return self.model_copy(update={"after": "", "since": None, "limit": 1})


class TailEvent(EventRow):
    """An event with what is known of its run, and where it goes."""

    title: str | None
    workflow_id: str | None
    failure_reason: str | None
    labels: dict[str, str]
    sinks: list[str]
    routes: list[str]


class TailGap(Result):
    """What a caller that comes back may have missed: events that were recorded between these times, of which those
    that had ended were removed."""

    since: Moment
    until: Moment


class TailPage(Result):
    """What was recorded after the position of the call, the oldest first. `next`: the position after that."""

    items: Sequence[TailEvent]
    next: str = Field(description="Give it as `after` for what comes next; there is always one.")
    gap: TailGap | None = Field(None, description="What may be missing before these, since it was removed.")


def encode(position: Position) -> str:
    """Return a position as clients keep it."""
    return cursor.encode("tail", position) or ""


def decode(given: str) -> Position | None:
    """Return the position that a client has kept; None for "". Raises Invalid."""
    found = cursor.decode("tail", given, (int, float))
    return None if found is None else Position(*found)


def shown(row: dict[str, Any]) -> TailEvent:
    """Return a row of the ledger as an event."""
    deliveries = row["deliveries"]
    where = {"sinks": [each.sink for each in deliveries], "routes": sorted({each.route for each in deliveries} - {""})}
    return TailEvent.model_validate({**row, **where})


def start(connection: Connection, wanted: TailParameters, now: float) -> Position:
    """Return the position after which the events are that are wanted. `now`: the ledger's time."""
    if (found := decode(wanted.after)) is not None:
        return tail.known(connection, found)
    return tail.newest(connection, now) if wanted.since is None else tail.since(connection, wanted.since)


def gap_before(position: Position, kept: float | None, now: float) -> TailGap | None:
    """Return what may have been removed after `position`. `kept`: seconds for which events are kept; None: for ever."""
    if kept is None or position.at >= now - kept:
        return None
    return TailGap(since=position.at, until=now - kept)


def check(service: Service, actor: Actor, connection: Connection, wanted: TailParameters) -> None:
    """Raise Invalid for a status that no run has, and for a source, sink or route that can't come. A run may."""
    if wanted.after:
        return
    asked = wanted.filter()
    if not actor.source:
        check_names(lambda: service.config, connection, asked, empty=False)
    check_may_come(lambda: service.config, connection, asked, actor.source)


def searched(service: Service, wanted: Filter) -> Redactor | None:
    """Return what masks the bodies in which a text is looked for; None when none is."""
    if not wanted.text:
        return None
    try:
        return Redactor(service.config.redact)
    except ConfigError:  # what it said when they were recorded is masked in any case
        return Redactor(())


def read_tail(service: Service, actor: Actor, wanted: TailParameters) -> TailPage:
    """List the events after a position, the oldest first. Over HTTP it is a stream unless only JSON is accepted."""
    ledger = service.ledger
    given = decode(wanted.after)
    now, until = ledger.known_now(), time.monotonic() + _SETTLE

    def begin(connection: Connection) -> Position:
        check(service, actor, connection, wanted)
        return start(connection, wanted, now)

    place = Tail(ledger.read(begin))
    gap = None
    if given is not None and now - given.at > _MISSES_NOTHING:
        with suppress(ConfigError):  # then it is not known here for how long events are kept
            gap = gap_before(given, service.config.retention.events, now)
    found: list[dict[str, Any]] = []
    asked = wanted.filter()
    bodies = searched(service, asked)
    for _ in range(_PAGES):
        read = functools.partial(tail.follow, tail=place, now=time.monotonic(), most=PAGE, bodies=bodies)
        place, rows = ledger.read(read)
        for row in rows:
            if tail.matches(row, asked):
                found.append(row)
                if len(found) == wanted.limit:
                    place = Tail(Position(row["seq"], row["recorded_at"]))
                    break
        if len(found) == wanted.limit or (len(rows) < PAGE and not place.gap) or time.monotonic() > until:
            break
        if place.gap:
            time.sleep(_LOOK)
    return TailPage(items=[shown(each) for each in found], next=encode(place.position), gap=gap)


TAIL: Final = Endpoint("tail", "GET", "/tail", VIEW, TailParameters, TailPage, read_tail)
ENDPOINTS = (TAIL,)
