"""Events in the order of recording, as they are committed: what live views follow. Reads only.

On PostgreSQL a number is given out before its transaction commits, so an event may be committed after one with a higher
number. Events behind a missing number wait until each transaction that could fill it has ended, or for PATIENCE
seconds: none is skipped, and each event's number is a place to resume from.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.callback_url import LONGEST, mask_piece
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.ledger import dialect
from receiver.ledger.deliveries_by_event import of_events
from receiver.ledger.filters import FULL_ID, Filter
from receiver.ledger.schema import deliveries, events, runs

# Bytes of a body in which a text is looked for.
SEARCHED: Final = 256 << 10
# Seconds that events wait behind a missing number. No transaction of Runhook takes longer.
PATIENCE: Final = 30.0
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


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


class SinkOfEvent(NamedTuple):
    """A delivery of an event, as it is when the event is read."""

    sink: str
    route: str
    state: str


def newest(connection: sa.Connection, now: float) -> Position:
    """Return the position after the newest event. `now`: its time where there is none."""
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


def known(connection: sa.Connection, position: Position) -> Position:
    """Return `position`, or what stands for it in a ledger that has given out its number again, or was begun anew: the
    place before the first event that was recorded later."""
    top = connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0
    at = connection.scalar(sa.select(events.c.recorded_at).where(events.c.seq == position.seq))
    if position.seq <= top and (at is None or at <= position.at):
        return position
    later = sa.select(sa.func.min(events.c.seq)).where(events.c.recorded_at > position.at)
    first = connection.scalar(later)
    return Position(top if first is None else first - 1, position.at)


def follow(
    connection: sa.Connection,
    tail: Tail,
    now: float,
    most: int,
    *,
    bodies: Redactor | None = None,
    until: int | None = None,
) -> tuple[Tail, list[dict[str, Any]]]:
    """Return up to `most` events after a place, and how far that is. `now`: by a clock that is never set. `until`: the
    last number. `bodies`: as for `load`."""
    (low, at), gap = tail
    writers = dialect.writers(connection, events)
    if writers is None:  # SQLite gives out the numbers of removed events again, if those were the newest
        low = min(low, connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0)
    above = sa.select(events.c.seq).where(events.c.seq > low, sa.true() if until is None else events.c.seq <= until)
    found = list(connection.scalars(above.order_by(events.c.seq).limit(most)))
    ended = gap is not None and (gap.writers.isdisjoint(writers or ()) or now - gap.since >= PATIENCE)
    known, end = gap.top if gap and ended else low, low
    for seq in found:
        if writers is not None and seq > max(known, end) + 1:
            break
        end = seq
    if not found or end == found[-1]:
        gap = None
    elif gap is None or ended:
        gap = Gap(found[-1], dialect.writers(connection, events) or frozenset(), now)
    rows = load(connection, [seq for seq in found if seq <= end], bodies=bodies)
    if rows:
        at = rows[-1]["recorded_at"]
    return Tail(Position(end, at), gap), rows


def load(connection: sa.Connection, seqs: Sequence[int], *, bodies: Redactor | None = None) -> list[dict[str, Any]]:
    """Return events without their bodies, in the order of `seqs`, with what is known of their runs, and their sinks.

    `bodies`: with the beginning of each body, in which a text is looked for; what this masks is not found there.
    """
    if not seqs:
        return []
    shown = [column for column in events.c if column.name not in ("body", "fingerprint", "statement", "completion")]
    if bodies is not None:
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
        .where(dialect.among(events.c.seq, list(seqs)))
    )
    found = {row.seq: dict(row._mapping) for row in connection.execute(query)}
    by_id = {row["id"]: row for row in found.values()}
    for row in found.values():
        row["labels"], row["deliveries"] = json.loads(row["labels"]), []
        if bodies is not None:  # in small letters, once for many words and many who follow
            row["body"] = _searchable(bytes(row["body"]), row["size"], bodies).lower()
    theirs = sa.select(deliveries.c.event_id, deliveries.c.sink, deliveries.c.route, deliveries.c.state)
    keys = [(row["source"], row["run_id"], row["id"]) for row in found.values()]
    theirs = theirs.where(of_events(keys)).order_by(deliveries.c.sink)
    for event_id, *delivery in connection.execute(theirs):
        by_id[event_id]["deliveries"].append(SinkOfEvent(*delivery))
    return [found[seq] for seq in seqs if seq in found]


def _searchable(body: bytes, size: int, redactor: Redactor) -> bytes:
    """Return the beginning of a body, without what nobody is shown: else a search would tell it letter by letter."""
    found = mask_piece(body)[:SEARCHED]
    run = parse(found) if size <= SEARCHED else None
    try:
        return redactor.apply(found, {} if run is None or run.left_out else run.data)[0]
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return b""  # one body keeps nobody from following the others


def matches(row: Mapping[str, Any], wanted: Filter) -> bool:
    """Return whether an event as `load` returns it is wanted: the same as filters.of_events, for a row that is here.

    A text is looked for in the beginning of the body as well, if the row has one.
    """
    if wanted.source not in ("", row["source"]) or wanted.run_id not in ("", row["run_id"]):
        return False
    whole = len(wanted.event_id) >= FULL_ID
    return (
        row["run_id"].startswith(wanted.run_prefix)
        and (row["id"] == wanted.event_id if whole else row["id"].startswith(wanted.event_id))
        and (not wanted.status or row["outcome"] in wanted.status)
        and wanted.run_type in ("", row["run_type"])
        and (wanted.since is None or row["recorded_at"] >= wanted.since)
        and (wanted.until is None or row["recorded_at"] < wanted.until)
        and wanted.workflow in ("", row["workflow_id"])
        and (not wanted.title or _has(row["title"], wanted.title))
        and (not wanted.reason or _has(row["problem"], wanted.reason) or _has(row["failure_reason"], wanted.reason))
        and all(row["labels"].get(name) == value for name, value in wanted.labels.items())
        and _goes_where(row["deliveries"], wanted)
        and all(_says(row, word) for word in dict.fromkeys(wanted.text.split()))
    )


def _goes_where(found: Sequence[SinkOfEvent], wanted: Filter) -> bool:
    if not (wanted.sink or wanted.route or wanted.state):
        return True
    return any(
        wanted.sink in ("", each.sink)
        and wanted.route in ("", each.route)
        and (not wanted.state or each.state in wanted.state)
        for each in found
    )


def _says(row: Mapping[str, Any], word: str) -> bool:
    if _has(row["title"], word) or _has(row["failure_reason"], word):
        return True
    return word.encode().lower() in row.get("body", b"")


def _has(text: str | None, part: str) -> bool:
    return text is not None and part.translate(_LOWER) in text.translate(_LOWER)
