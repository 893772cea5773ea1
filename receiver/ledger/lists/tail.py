"""Events in the order of recording, as they are committed: what live views follow. Reads only.

On PostgreSQL a number is given out before its transaction commits, so an event may be committed after one with a higher
number. Events behind a missing number wait until each transaction that could fill it has ended, or for PATIENCE
seconds: none is skipped, and each event's number is a place to resume from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.callback_url import LONGEST, mask_piece
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.ledger.database import dialect
from receiver.ledger.lists.filters import Filter, of_events
from receiver.ledger.schema import deliveries, events, runs

# Bytes of a body in which a text is looked for.
SEARCHED: Final = 256 << 10
# Seconds that events wait behind a missing number. No transaction of Runhook takes longer.
PATIENCE: Final = 30.0


class Position(NamedTuple):
    """Where a reader is: after which event, and when that was recorded (seconds since the epoch)."""

    seq: int
    at: float


class Gap(NamedTuple):
    """Numbers up to `top` are missing, which `writers` may still commit. `since`: when that was seen."""

    top: int
    writers: frozenset[str]
    since: float


class Tail(NamedTuple):
    """How far a reader has come. `gap`: why it has not come to the newest event, if it has not."""

    position: Position
    gap: Gap | None = None


def newest(connection: sa.Connection, now: float) -> Position:
    """Return the position after the newest event. `now`: its time in an empty ledger."""
    row = connection.execute(sa.select(events.c.seq, events.c.recorded_at).order_by(events.c.seq.desc()).limit(1))
    found = row.first()
    return Position(found.seq, found.recorded_at) if found else Position(0, now)


def since(connection: sa.Connection, moment: float) -> Position:
    """Return the position before the first event that was recorded at `moment` or later."""
    it = events.c
    first = connection.scalar(sa.select(sa.func.min(it.seq)).where(it.recorded_at >= moment))
    if first is None:
        return newest(connection, moment)
    return Position(first - 1, moment)


def current_position(connection: sa.Connection, position: Position) -> Position:
    """Return `position`, or its equivalent in a ledger that was replaced: the place before the first event that was
    recorded later."""
    top = connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0
    at = connection.scalar(sa.select(events.c.recorded_at).where(events.c.seq == position.seq))
    if position.seq <= top and (at is None or at <= position.at):
        return position
    later = sa.select(sa.func.min(events.c.seq)).where(events.c.recorded_at > position.at)
    first = connection.scalar(later)
    return Position(top if first is None else first - 1, position.at)


def follow(
    connection: sa.Connection, tail: Tail, now: float, most: int, filters: Filter, redactor: Redactor
) -> tuple[Tail, list[dict[str, Any]], bool]:
    """Look at up to `most` events after a place. Returns how far that is, those that match, and whether there are more.

    `now`: by a clock that is never set. `redactor`: what it masks is not found by a text.
    """
    (low, at), gap = tail
    writers = dialect.writers(connection, events)
    above = sa.select(events.c.seq, events.c.recorded_at).where(events.c.seq > low).order_by(events.c.seq).limit(most)
    found = connection.execute(above).all()
    ended = gap is not None and (gap.writers.isdisjoint(writers or ()) or now - gap.since >= PATIENCE)
    known, end = gap.top if gap and ended else low, low
    for seq, recorded_at in found:
        if writers is not None and seq > max(known, end) + 1:
            break
        end, at = seq, recorded_at
    if not found or end == found[-1].seq:
        gap = None
    elif gap is None or ended:
        gap = Gap(found[-1].seq, dialect.writers(connection, events) or frozenset(), now)
    rows = load(connection, [row.seq for row in found if row.seq <= end], filters, redactor)
    return Tail(Position(end, at), gap), rows, gap is not None or len(found) == most


def load(connection: sa.Connection, seqs: Sequence[int], filters: Filter, redactor: Redactor) -> list[dict[str, Any]]:
    """Return those of the events that match, in their order, without their bodies, with their runs and deliveries.

    A text is searched in the title, the failure reason and the first SEARCHED bytes of the body, after redaction.
    """
    if not seqs:
        return []
    shown = [column for column in events.c if column.name not in ("body", "statement", "completion")]
    if filters.text:
        shown.append(sa.func.substr(events.c.body, 1, SEARCHED + LONGEST).label("body"))  # type: ignore[arg-type]
    query = (
        sa.select(
            *shown,
            sa.func.length(events.c.body).label("size"),
            runs.c.title,
            runs.c.workflow_id,
            runs.c.failure_reason,
            sa.func.coalesce(runs.c.labels, "{}").label("labels"),
        )
        .outerjoin(runs, sa.and_(runs.c.source == events.c.source, runs.c.run_id == events.c.run_id))
        .where(dialect.among(events.c.seq, list(seqs)), dialect.row_by_row(*of_events(replace(filters, text=""))))
        .order_by(events.c.seq)
    )
    rows = (dict(row._mapping) for row in connection.execute(query))
    found = {row["id"]: row for row in rows if not filters.text or _has_words(row, filters.text, redactor)}
    for row in found.values():
        row["labels"], row["deliveries"] = json.loads(row["labels"]), []
    theirs = sa.select(deliveries.c.event_id, deliveries.c.sink, deliveries.c.route)
    theirs = theirs.where(dialect.among(deliveries.c.event_id, list(found)))
    for event_id, sink, route in connection.execute(theirs.order_by(deliveries.c.sink)) if found else ():
        found[event_id]["deliveries"].append((sink, route))
    return list(found.values())


def _has_words(row: dict[str, Any], text: str, redactor: Redactor) -> bool:
    """Whether an event has each word of a text, with the letters A-Z in either case. Drops its body."""
    body = _searchable(bytes(row.pop("body")), row["size"], redactor).lower()
    said = [each.encode().lower() for each in (row["title"], row["failure_reason"]) if each]
    return all(any(word in each for each in (body, *said)) for word in text.encode().lower().split())


def _searchable(body: bytes, size: int, redactor: Redactor) -> bytes:
    """Return the beginning of a body, redacted: else a search would reveal what is masked letter by letter."""
    found = mask_piece(body)[:SEARCHED]
    run = parse(found) if size <= SEARCHED else None
    try:
        return redactor.apply(found, {} if run is None or run.left_out else run.data)[0]
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return b""  # one body stops no stream
