"""Indexing the words of runs that changed, in batches, beside the dispatch: the clock does it, one clock at a time.

A batch is read and its words are found without any lock; then one short transaction writes it, if nobody else has
come on meanwhile. The same run again replaces what was known of it, so a batch that is done twice does no harm.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from pydantic_core import from_json

from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey, members
from receiver.domain.words import document
from receiver.ledger import bulk
from receiver.ledger.engine import Ledger
from receiver.ledger.schema import events, run_texts, runs
from receiver.ledger.text_index import state
from receiver.ledger.text_index.postings import WordChanges
from receiver.ledger.text_index.state import IndexState, Place

# Runs of one transaction.
BATCH: Final = 256
# Bytes of a body that are read, and of all bodies of a batch.
BODY: Final = 1 << 20
BODIES: Final = 16 << 20
# Seconds for which nobody else indexes after a batch.
LEASE: Final = 10.0
# Seconds of runs that are read again at once: more often would write the state for nothing.
CHECK_EVERY: Final = 10.0

log = logging.getLogger("runhook.clock")

_put: Final = bulk.Insert(
    run_texts,
    lambda insert: insert.on_conflict_do_update(
        index_elements=[run_texts.c.source, run_texts.c.run_id],
        set_={name: insert.excluded[name] for name in ("number", "changed_at", "document")},
    ),
)


@dataclass(frozen=True, slots=True)
class _Row:
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
        return self.source, self.run_id

    @property
    def place(self) -> Place:
        return Place(self.updated_at, self.source, self.run_id)

    @property
    def stale(self) -> bool:
        return bool(self.event_id) and self.indexed_at != self.updated_at


@dataclass(frozen=True, slots=True)
class _Batch:
    """Runs with their documents, the state they were read in, and the one when they are written."""

    rows: Sequence[_Row]
    documents: Mapping[RunKey, str]
    read_in: IndexState
    then: IndexState
    backwards: bool


class TextIndexer:
    """Indexes the runs of one ledger, for one process. What `redactor` masks is never indexed."""

    def __init__(self, ledger: Ledger, redactor: Redactor) -> None:
        self._ledger = ledger
        self._redactor = redactor
        self._owner = secrets.token_hex(8)
        # Whether the last look found no run to index, nor will another one find any before a run changes.
        self.at_rest = False

    def run(self, within: float) -> int:
        """Index what changed, then what is old, for at most `within` seconds and a batch. Returns how many runs.

        Raises LedgerUnavailable.
        """
        until, count = time.monotonic() + within, 0
        self.at_rest = False
        while (batch := self._next()) is not None:
            if not self._ledger.write(partial(self._write, batch=batch)):
                break  # another clock is at it
            count += len(batch.documents)
            if time.monotonic() >= until:
                break
        return count

    def _next(self) -> _Batch | None:
        """Read the next batch. None when there is nothing to do, or another clock does it."""

        def read(connection: sa.Connection) -> tuple[bool, _Batch | None]:
            found, now = state.read(connection), self._ledger.now()
            may = found is not None and self._may(found, now)
            return found is not None, self._read(connection, found, now) if found is not None and may else None

        begun, batch = self._ledger.read(read)
        if not begun:
            self._ledger.write(state.begin)
            _, batch = self._ledger.read(read)
        return batch

    def _may(self, found: IndexState, now: float) -> bool:
        return found.owner == self._owner or found.leased_until <= now or found.leased_until > now + 2 * LEASE

    def _read(self, connection: sa.Connection, found: IndexState, now: float) -> _Batch | None:
        if rows := _changed(connection, state.after(found.seen)):
            rows, documents = self._documents(connection, rows)
            return _Batch(rows, documents, found, replace(found, seen=rows[-1].place), backwards=False)
        settled = Place(min(now - state.SETTLED, found.seen.at))
        # Once nothing more comes, to the very end.
        least = CHECK_EVERY if settled.at < found.seen.at else 0.0
        if settled.at - found.checked.at > least:
            rows = _changed(connection, sa.and_(state.after(found.checked), state.before(settled)))
            rows, documents = self._documents(connection, rows)
            return _Batch(rows, documents, found, replace(found, checked=rows[-1].place if rows else settled), False)
        if found.backfilled is not None:
            rows = _changed(connection, state.before(found.backfilled), backwards=True)
            rows, documents = self._documents(connection, rows)
            down_to = rows[-1].place if rows else None
            return _Batch(rows, documents, found, replace(found, backfilled=down_to), backwards=True)
        self.at_rest = found.checked.at >= found.seen.at
        return None

    def _documents(
        self, connection: sa.Connection, rows: Sequence[_Row]
    ) -> tuple[Sequence[_Row], Mapping[RunKey, str]]:
        """Return as many of `rows` as BODIES allows, the first in any case, and the documents of those to index."""
        sizes = dict[str, int](
            connection.execute(
                sa.select(events.c.id, sa.func.length(events.c.body)).where(
                    bulk.among(connection, events.c.id, [row.event_id for row in rows if row.stale])
                )
            ).all()
        )
        left, taken = BODIES, 0
        for row in rows:
            left -= min(BODY, sizes.get(row.event_id, 0)) if row.stale else 0
            if left < 0 and taken:
                break
            taken += 1
        rows = rows[:taken]
        wanted = [row for row in rows if row.stale]
        bodies = dict[str, bytes](
            connection.execute(
                sa.select(events.c.id, sa.func.substr(events.c.body, 1, BODY)).where(
                    bulk.among(connection, events.c.id, [row.event_id for row in wanted])
                )
            ).all()
        )
        return rows, {
            row.key: self._document(row, bytes(bodies.get(row.event_id, b"")), sizes.get(row.event_id, 0))
            for row in wanted
        }

    def _document(self, row: _Row, body: bytes, size: int) -> str:
        said: dict[str, Any] = {"title": row.title, "failure_reason": row.failure_reason}
        try:
            said = self._redactor.mask({**said, "output": _output(body, whole=len(body) == size)})
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            # It keeps none of the others waiting.
            log.exception("clock.not_indexed source=%s run=%s: only its title and reason are", row.source, row.run_id)
        return document(said["title"], said["failure_reason"], said.get("output"))

    def _write(self, connection: sa.Connection, batch: _Batch) -> bool:
        """Write the batch. False when another clock has come on since it was read."""
        found, now = state.lock(connection), self._ledger.now()
        if (
            found is None
            or not self._may(found, now)
            or replace(found, owner="", leased_until=0.0) != replace(batch.read_in, owner="", leased_until=0.0)
        ):
            return False
        new = _numbered(connection, batch, batch.read_in.oldest if batch.backwards else batch.read_in.newest)
        _put(connection, new)
        then = replace(batch.then, owner=self._owner, leased_until=now + LEASE)
        if new:
            last = new[-1]["number"]
            then = replace(then, oldest=last) if batch.backwards else replace(then, newest=last)
        state.write(connection, then)
        return True


def _numbered(connection: sa.Connection, batch: _Batch, number: int) -> list[dict[str, Any]]:
    """Write the words of the batch under numbers from `number` on. Returns the rows of its documents."""
    there = _existing(connection, batch.documents)  # retention may have removed some, and never will again
    known = _known(connection, there)
    changes, new = WordChanges(), list[dict[str, Any]]()
    for row in batch.rows:
        if row.key not in there:
            continue
        number += -1 if batch.backwards else 1
        if (old := known.get(row.key)) is not None:
            changes.remove(old.number, old.document)
        text = batch.documents[row.key]
        changes.add(number, text)
        new.append(
            {
                "number": number,
                "source": row.source,
                "run_id": row.run_id,
                "changed_at": row.updated_at,
                "document": text,
            }
        )
    changes.write(connection)
    return new


def remove(connection: sa.Connection, keys: Iterable[RunKey]) -> None:
    """Remove what is known of these runs, whose rows are gone. Call it last in a transaction: it waits for its turn."""
    wanted = set(keys)
    if not wanted or state.lock(connection) is None:
        return
    changes = WordChanges()
    known = _known(connection, wanted)
    for old in known.values():
        changes.remove(old.number, old.document)
    changes.write(connection)
    numbers = [old.number for old in known.values()]
    if numbers:
        connection.execute(sa.delete(run_texts).where(bulk.among(connection, run_texts.c.number, numbers)))


def _changed(connection: sa.Connection, where: sa.ColumnElement[bool], *, backwards: bool = False) -> Sequence[_Row]:
    query = (
        sa.select(
            *(runs.c.source, runs.c.run_id, runs.c.updated_at, runs.c.title, runs.c.failure_reason, runs.c.event_id),
            run_texts.c.changed_at,
        )
        .outerjoin(run_texts, sa.and_(run_texts.c.source == runs.c.source, run_texts.c.run_id == runs.c.run_id))
        .where(where)
        .order_by(*(column.desc() for column in state.ORDER) if backwards else state.ORDER)
        .limit(BATCH)
    )
    return [_Row(*row) for row in connection.execute(query)]


def _existing(connection: sa.Connection, keys: Iterable[RunKey]) -> set[RunKey]:
    found: set[RunKey] = set()
    for source, run_ids in bulk.by_source(keys):
        query = sa.select(runs.c.run_id).where(runs.c.source == source, bulk.among(connection, runs.c.run_id, run_ids))
        found |= {(source, run_id) for run_id in connection.execute(query).scalars()}
    return found


def _known(connection: sa.Connection, keys: Iterable[RunKey]) -> dict[RunKey, Any]:
    found: dict[RunKey, Any] = {}
    for source, run_ids in bulk.by_source(keys):
        query = sa.select(run_texts).where(
            run_texts.c.source == source, bulk.among(connection, run_texts.c.run_id, run_ids)
        )
        found |= {(row.source, row.run_id): row for row in connection.execute(query)}
    return found


def _output(body: bytes, *, whole: bool) -> Any:
    """Return the output in a body, of which only the beginning is there unless it is `whole`."""
    if whole:
        return members(body).get("output")
    try:
        data = from_json(body, allow_partial="trailing-strings", cache_strings="keys")
    except ValueError:
        return None
    return data.get("output") if isinstance(data, dict) else None
