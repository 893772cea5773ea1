"""Which runs are to be indexed, and what they say: read without any lock, in batches that take little memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from pydantic_core import from_json

from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey, members
from receiver.domain.words import Said, said
from receiver.ledger import bulk, statements
from receiver.ledger.schema import events, run_texts, runs
from receiver.ledger.statements import BuiltStatement
from receiver.ledger.text_index import state
from receiver.ledger.text_index.state import Place

# Runs of one batch: each batch writes the rows of common words anew.
BATCH: Final = 256
# Runs that are looked at again together.
AGAIN: Final = 1024
# Bytes of a body that are read, and of all bodies of a batch.
BODY: Final = 1 << 20
BODIES: Final = 16 << 20

log = logging.getLogger("runhook.clock")


class ChangedRun(NamedTuple):
    """A run that is to be looked at. `indexed_at`: its `updated_at` when it was indexed last, or None. `body`: of its
    newest event, unless that is large."""

    source: str
    run_id: str
    updated_at: float
    title: str | None
    failure_reason: str | None
    event_id: str
    indexed_at: float | None
    body: bytes | None

    @property
    def place(self) -> Place:
        """Where it is in the order in which runs changed."""
        return Place(self.updated_at, self.source, self.run_id)


class Text(NamedTuple):
    """What a run says. `new`: the index had nothing of it."""

    key: RunKey
    changed_at: float
    said: Said
    new: bool


class Texts(NamedTuple):
    """What the index lacks of some runs in a row. `last`: the place of the last one; None when there are none. `more`:
    whether others may follow."""

    last: Place | None
    more: bool
    texts: Sequence[Text]


def changed_since(connection: sa.Connection, place: Place, redactor: Redactor) -> Texts:
    """Read the first runs that changed after the one at `place`."""
    return _texts(connection, _run(connection, _first(BATCH), after=place), redactor)


def changed_before(connection: sa.Connection, place: Place, redactor: Redactor) -> Texts:
    """Read the last runs that changed before the one at `place`, the newest first."""
    return _texts(connection, _run(connection, _last(BATCH), before=place), redactor)


def missed_between(connection: sa.Connection, after: Place, before: Place, redactor: Redactor) -> Texts:
    """Look again at the first runs that changed after the one at `after` and before the one at `before`.

    Nearly all were read when they changed, so the database tells only of the others.
    """
    (found,) = statements.run(connection, _end(AGAIN).with_values(after_at=after.at))
    end = min(before, Place(found[0].updated_at)) if found else before
    read = _texts(connection, _run(connection, _missed(BATCH), after=after, before=end), redactor)
    return read if read.more else Texts(end, end < before, read.texts)


def _run(connection: sa.Connection, statement: BuiltStatement, **places: Place) -> Sequence[ChangedRun]:
    given = {f"{name}_{part}": value for name, place in places.items() for part, value in place._asdict().items()}
    # The bodies of a batch that come with their runs are BODIES at the most.
    (rows,) = statements.run(connection, statement.with_values(small=min(BODY, BODIES // BATCH), **given))
    return [ChangedRun._make(row) for row in rows]


def _place(name: str) -> Place:
    """Return a place of which each part is a parameter."""
    return Place(
        sa.bindparam(f"{name}_at", type_=sa.Double()),  # type: ignore[arg-type]
        sa.bindparam(f"{name}_source", type_=sa.Text()),  # type: ignore[arg-type]
        sa.bindparam(f"{name}_run_id", type_=sa.Text()),  # type: ignore[arg-type]
    )


# Looked up, not joined: of a new ledger PostgreSQL might read all documents, and all bodies.
_INDEXED_AT: Final = (
    sa.select(run_texts.c.changed_at)
    .where(run_texts.c.source == runs.c.source, run_texts.c.run_id == runs.c.run_id)
    .scalar_subquery()
)
_BODY: Final = (
    sa.select(events.c.body)
    .where(events.c.id == runs.c.event_id, sa.func.length(events.c.body) <= sa.bindparam("small", type_=sa.Integer()))
    .scalar_subquery()
)
_RUNS: Final = sa.select(
    *(runs.c.source, runs.c.run_id, runs.c.updated_at, runs.c.title, runs.c.failure_reason, runs.c.event_id),
    _INDEXED_AT.label("indexed_at"),
    _BODY.label("body"),
)
_AFTER: Final[Any] = sa.bindparam("after_at", type_=sa.Double())
_BEFORE: Final[Any] = sa.bindparam("before_at", type_=sa.Double())


# Each limit has a statement of its own: a plan for any would be another. A bound on both sides keeps PostgreSQL from
# reading all runs of a ledger whose statistics it has not yet; of one bound it believes that a third lies beyond.
@cache
def _first(limit: int) -> BuiltStatement:
    end = sa.func.coalesce(_nth_after(limit).scalar_subquery(), math.inf)
    query = _RUNS.where(state.after(_place("after")), runs.c.updated_at <= end)
    return BuiltStatement(lambda _: query.order_by(*state.ORDER).limit(limit))


@cache
def _last(limit: int) -> BuiltStatement:
    earlier = runs.alias().c.updated_at
    nth = sa.select(earlier).where(earlier < _BEFORE).order_by(earlier.desc()).limit(1).offset(limit - 1)
    end = sa.func.coalesce(nth.scalar_subquery(), -math.inf)
    query = _RUNS.where(state.before(_place("before")), runs.c.updated_at >= end)
    return BuiltStatement(lambda _: query.order_by(*(column.desc() for column in state.ORDER)).limit(limit))


@cache
def _missed(limit: int) -> BuiltStatement:
    stale = runs.c.event_id != "", _INDEXED_AT.is_distinct_from(runs.c.updated_at)
    query = _RUNS.where(state.after(_place("after")), state.before(_place("before")), *stale)
    return BuiltStatement(lambda _: query.order_by(*state.ORDER).limit(limit))


def _nth_after(count: int) -> sa.Select[Any]:
    """Return the query for when the run changed that comes so many places after a time."""
    later = runs.alias().c.updated_at
    # The second bound is one for PostgreSQL's estimate alone.
    return sa.select(later).where(later > _AFTER, later <= math.inf).order_by(later).limit(1).offset(count - 1)


@cache
def _end(count: int) -> BuiltStatement:
    return BuiltStatement(lambda _: _nth_after(count))


def _texts(connection: sa.Connection, rows: Sequence[ChangedRun], redactor: Redactor) -> Texts:
    """Return what those of `rows` say that are stale: of as many as BODIES allows, of the first in any case."""
    stale = [row for row in rows if row.event_id and row.indexed_at != row.updated_at]
    more, beginnings, sizes = len(rows) >= BATCH, dict[str, bytes](), dict[str, int]()
    if large := [row.event_id for row in stale if row.body is None]:
        sizes = dict(statements.run(connection, _SIZES.with_values(ids=large))[0])
        if (taken := _taken(stale, sizes)) < len(stale):
            rows = rows[: rows.index(stale[taken])]
            stale, more = stale[:taken], True
        large = [row.event_id for row in stale if row.event_id in sizes]
        beginnings = dict(statements.run(connection, _BEGINNINGS.with_values(ids=large, size=BODY))[0]) if large else {}
    texts = []
    for row in stale:
        body, whole = row.body, True
        if body is None:
            body, whole = beginnings.get(row.event_id, b""), sizes.get(row.event_id, 0) <= BODY
        words = _said(row, bytes(body), redactor, whole=whole)
        texts.append(Text((row.source, row.run_id), row.updated_at, words, new=row.indexed_at is None))
    return Texts(rows[-1].place if rows else None, more, texts)


def _taken(rows: Sequence[ChangedRun], sizes: Mapping[str, int]) -> int:
    """Return how many of `rows` BODIES allows, of whose large bodies these are the sizes: the first in any case."""
    left = BODIES
    for place, row in enumerate(rows):
        left -= len(row.body) if row.body is not None else min(BODY, sizes.get(row.event_id, 0))
        if left < 0 and place:
            return place
    return len(rows)


_SIZES: Final = BuiltStatement(
    lambda form: sa.select(events.c.id, sa.func.length(events.c.body).label("size")).where(
        bulk.among_given(form, events.c.id, "ids")
    )
)
_BEGINNINGS: Final = BuiltStatement(
    lambda form: sa.select(
        events.c.id, sa.func.substr(events.c.body, 1, sa.bindparam("size", type_=sa.Integer())).label("body")
    ).where(bulk.among_given(form, events.c.id, "ids"))
)


def _said(row: ChangedRun, body: bytes, redactor: Redactor, *, whole: bool) -> Said:
    data: dict[str, Any] = {"title": row.title, "failure_reason": row.failure_reason}
    try:
        data["output"] = _output(body, whole=whole)
        data = redactor.mask(data) if redactor.may_match(body) else redactor.mask_top(data)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # It keeps none of the others waiting.
        log.exception("clock.not_indexed source=%s run=%s: only its title and reason are", row.source, row.run_id)
        data = redactor.mask_top({"title": row.title, "failure_reason": row.failure_reason})
    return said(data["title"], data["failure_reason"], data.get("output"))


def _output(body: bytes, *, whole: bool) -> Any:
    """Return the output in a body, of which only the beginning is there unless it is `whole`."""
    if whole:
        return members(body).get("output")
    try:
        data = from_json(body, allow_partial="trailing-strings", cache_strings="keys")
    except ValueError:
        return None
    return data.get("output") if isinstance(data, dict) else None
