"""The list of events, the one that was recorded last first."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from receiver.ledger.lists.filters import Filter, of_events
from receiver.ledger.lists.paging import SCAN, Key, KeysetList, Page, page_of, walk_of
from receiver.ledger.schema import events

_SHOWN: Final = (
    *(column for column in events.c if column.name not in ("body", "statement")),
    sa.func.length(events.c.body).label("size"),
)
# Of equal times by the order of recording.
LISTING: Final = KeysetList(_SHOWN, (events.c.recorded_at, events.c.seq), large=True)


def list_events(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN) -> Page:
    """Return a page of the events without their bodies, each with the `size` of its body in bytes.

    All of the filter applies; of `limit` the parameter.
    """
    walk = walk_of(events, filters, of_events)
    return page_of(connection, LISTING, filters, of_events(filters), walk, after, limit, scan)
