"""Which runs are to be indexed, and what they say: read without any lock, in batches that take little memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from pydantic_core import from_json

from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey, members
from receiver.domain.words import document
from receiver.ledger import bulk, requests
from receiver.ledger.requests import BuiltStatement
from receiver.ledger.schema import events, run_texts, runs
from receiver.ledger.text_index import state
from receiver.ledger.text_index.state import Place

# Runs of one batch.
BATCH: Final = 64
# Bytes of a body that are read, and of all bodies of a batch.
BODY: Final = 1 << 20
BODIES: Final = 16 << 20

log = logging.getLogger("runhook.clock")


class ChangedRun(NamedTuple):
    """A run that is to be looked at. `indexed_at`: its `updated_at` when it was indexed last, or None."""

    source: str
    run_id: str
    updated_at: float
    title: str | None
    failure_reason: str | None
    event_id: str
    indexed_at: float | None

    @property
    def key(self) -> RunKey:
        """The run."""
        return self.source, self.run_id

    @property
    def place(self) -> Place:
        """Where it is in the order in which runs changed."""
        return Place(self.updated_at, self.source, self.run_id)

    @property
    def stale(self) -> bool:
        """Whether the index has not what it says."""
        return bool(self.event_id) and self.indexed_at != self.updated_at


def changed_since(connection: sa.Connection, place: Place) -> Sequence[ChangedRun]:
    """Return the first runs that changed after the one at `place`."""
    return _changed(connection, after=place)


def changed_between(connection: sa.Connection, after: Place, before: Place) -> Sequence[ChangedRun]:
    """Return the first runs that changed after the one at `after` and before the one at `before`."""
    return _changed(connection, after=after, before=before)


def changed_before(connection: sa.Connection, place: Place) -> Sequence[ChangedRun]:
    """Return the last runs that changed before the one at `place`, the newest first."""
    return _changed(connection, before=place)


def _changed(connection: sa.Connection, **places: Place) -> Sequence[ChangedRun]:
    asked = _finding(tuple(places), BATCH)
    values = {f"{name}_{part}": value for name, place in places.items() for part, value in place._asdict().items()}
    (rows,) = requests.run(connection, asked.with_values(**values))
    return [ChangedRun(*row) for row in rows]


@cache
def _finding(bounds: tuple[str, ...], limit: int) -> BuiltStatement:
    """Return the statement for runs within these bounds. `limit` is no parameter: a plan for any would be another."""
    where = [{"after": state.after, "before": state.before}[name](_given(name)) for name in bounds]
    # Looked up, not joined: of a new ledger PostgreSQL might read all documents.
    indexed_at = sa.select(run_texts.c.changed_at).where(
        run_texts.c.source == runs.c.source, run_texts.c.run_id == runs.c.run_id
    )
    query = sa.select(
        *(runs.c.source, runs.c.run_id, runs.c.updated_at, runs.c.title, runs.c.failure_reason, runs.c.event_id),
        indexed_at.scalar_subquery().label("indexed_at"),
    ).where(*where)
    order = state.ORDER if "after" in bounds else [column.desc() for column in state.ORDER]
    return BuiltStatement(lambda _: query.order_by(*order).limit(limit))


def _given(name: str) -> Any:
    """Return a place of which each part is a parameter."""
    return Place(
        sa.bindparam(f"{name}_at", type_=sa.Double()),  # type: ignore[arg-type]
        sa.bindparam(f"{name}_source", type_=sa.Text()),  # type: ignore[arg-type]
        sa.bindparam(f"{name}_run_id", type_=sa.Text()),  # type: ignore[arg-type]
    )


def documents(
    connection: sa.Connection, rows: Sequence[ChangedRun], redactor: Redactor
) -> tuple[Sequence[ChangedRun], Mapping[RunKey, str]]:
    """Return as many of `rows` as BODIES allows, the first in any case, and the documents of those that are stale."""
    small = min(BODY, BODIES // BATCH)
    ids = [row.event_id for row in rows if row.stale]
    (found,) = requests.run(connection, _BODIES.with_values(ids=ids, small=small)) if ids else ([],)
    sizes = {event_id: size for event_id, size, _ in found}
    left, taken = BODIES, 0
    for row in rows:
        left -= min(BODY, sizes.get(row.event_id, 0)) if row.stale else 0
        if left < 0 and taken:
            break
        taken += 1
    rows = rows[:taken]
    wanted = [row for row in rows if row.stale]
    bodies = {event_id: body for event_id, size, body in found if size <= small}
    if large := [row.event_id for row in wanted if sizes.get(row.event_id, 0) > small]:
        (beginnings,) = requests.run(connection, _BEGINNINGS.with_values(ids=large, size=BODY))
        bodies |= dict(beginnings)
    return rows, {
        row.key: _document(row, bytes(bodies.get(row.event_id, b"")), sizes.get(row.event_id, 0), redactor)
        for row in wanted
    }


# Most bodies are small, and come with their sizes.
_BODIES: Final = BuiltStatement(
    lambda form: sa.select(
        events.c.id,
        sa.func.length(events.c.body).label("size"),
        sa.case((sa.func.length(events.c.body) <= sa.bindparam("small", type_=sa.Integer()), events.c.body)).label(
            "body"
        ),
    ).where(bulk.among_given(form, events.c.id, "ids"))
)
_BEGINNINGS: Final = BuiltStatement(
    lambda form: sa.select(
        events.c.id, sa.func.substr(events.c.body, 1, sa.bindparam("size", type_=sa.Integer())).label("body")
    ).where(bulk.among_given(form, events.c.id, "ids"))
)


def _document(row: ChangedRun, body: bytes, size: int, redactor: Redactor) -> str:
    said: dict[str, Any] = {"title": row.title, "failure_reason": row.failure_reason}
    try:
        said = redactor.mask({**said, "output": _output(body, whole=len(body) == size)})
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # It keeps none of the others waiting.
        log.exception("clock.not_indexed source=%s run=%s: only its title and reason are", row.source, row.run_id)
    return document(said["title"], said["failure_reason"], said.get("output"))


def _output(body: bytes, *, whole: bool) -> Any:
    """Return the output in a body, of which only the beginning is there unless it is `whole`."""
    if whole:
        return members(body).get("output")
    try:
        data = from_json(body, allow_partial="trailing-strings", cache_strings="keys")
    except ValueError:
        return None
    return data.get("output") if isinstance(data, dict) else None
