"""Indexing the words of runs that changed, in batches, beside the dispatch: the clock does it, one clock at a time.

A batch is read and its words are found without any lock; then one short transaction writes it, if nobody else has
come on meanwhile. The same run again replaces what was known of it, so a batch that is done twice does no harm.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey
from receiver.domain.words import words_in
from receiver.ledger import bulk, statements
from receiver.ledger.engine import Ledger
from receiver.ledger.schema import run_texts, runs
from receiver.ledger.statements import BoundStatement, BuiltStatement, StatementForm
from receiver.ledger.text_index import reading, state, summaries
from receiver.ledger.text_index.postings import WordChanges
from receiver.ledger.text_index.reading import Text, Texts
from receiver.ledger.text_index.state import IndexState, Place

# Seconds for which nobody else indexes after a batch.
LEASE: Final = 10.0
# Seconds of changes that are checked again together: more often would write the state for nothing.
CHECK_EVERY: Final = 10.0
# Seconds after which a change has waited too long for any rest.
BEHIND: Final = 2.0
# Runs that changed, and characters of their documents, up to which batches are written together: the rows of common
# words are then written once for all of them. The words of so many characters take some 20 MB.
TOGETHER: Final = 1024
TOGETHER_CHARACTERS: Final = 1 << 20

_insert: Final = bulk.Insert(run_texts, lambda insert: insert)
_put: Final = bulk.Insert(
    run_texts,
    lambda insert: insert.on_conflict_do_update(
        index_elements=[run_texts.c.source, run_texts.c.run_id],
        set_={name: insert.excluded[name] for name in ("number", "changed_at", "document")},
    ),
)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What runs say, the state it was read in, and the one when it is written. `changed_at`: of the last of those that
    changed, None when they are old. `full`: whether there may be more of its kind."""

    texts: Sequence[Text]
    read_in: IndexState
    then: IndexState
    full: bool
    changed_at: float | None = None
    backwards: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether more runs that changed are to be written with it."""
        return (
            self.full
            and self.changed_at is not None
            and len(self.texts) < TOGETHER
            and sum(len(text.said.document) for text in self.texts) < TOGETHER_CHARACTERS
        )

    def joined(self, read: Texts) -> _Batch:
        """Return the batch with runs that changed since. Of one that has changed again, the last text counts."""
        if read.last is None:
            return replace(self, full=False)
        again = {text.key for text in read.texts}
        texts = [*(text for text in self.texts if text.key not in again), *read.texts]
        return _Batch(texts, self.read_in, replace(self.then, seen=read.last), read.more, read.last.at)


class _TimeBudget:
    """The time that one call may take, its rests included."""

    def __init__(self, ledger: Ledger, within: float, rest: Callable[[float], None]) -> None:
        self._ledger = ledger
        self._sleep = rest
        self._began = time.monotonic()
        self._until = self._began + within

    def rest(self, changed_at: float | None = None) -> bool:
        """Rest as long as the work since the last rest took; not if what waits changed, at `changed_at`, long ago.

        False when the time is over.
        """
        took, left = time.monotonic() - self._began, self._until - time.monotonic()
        if left <= 0:
            return False
        if changed_at is None or self._ledger.now() - changed_at < BEHIND:
            self._sleep(min(took, left))
        self._began = time.monotonic()
        return True


class TextIndexer:
    """Indexes the runs of one ledger, for one process. What `redactor` masks is never indexed."""

    def __init__(self, ledger: Ledger, redactor: Redactor) -> None:
        self._ledger = ledger
        self._redactor = redactor
        self._owner = secrets.token_hex(8)
        self._known: IndexState | None = None  # what was written last
        self._mine: IndexState | None = None  # what was read last, unless another clock indexes
        self._summarizer = summaries.Summarizer(ledger)
        # Whether there is nothing to index before a run changes.
        self.at_rest = False
        # How many runs the last call found to have changed; None when it left something to be done at once.
        self.changed: int | None = None

    def run(self, within: float, rest: Callable[[float], None] = time.sleep) -> int:
        """Index what changed, then what is old, for at most `within` seconds and a batch; when nothing is left of that,
        make summaries of full chunks. Returns how many runs it indexed.

        After each batch that it reads or writes it rests as long as that took, by `rest(seconds)`, unless it is behind:
        others want the processors, and its session of the database has the same priority as all others.
        Raises LedgerUnavailable.
        """
        budget = _TimeBudget(self._ledger, within, rest)
        count, changed, caught_up = 0, 0, False
        self.at_rest, self.changed = False, None
        while (batch := self._next(caught_up)) is not None:
            batch = self._joined(batch, budget)
            numbered = _numbered(batch)
            if not self._ledger.write(partial(self._write, batch=batch, numbered=numbered)):
                self._known = None
                return count  # another clock is at it
            count += len(batch.texts)
            changed += len(batch.texts) if batch.changed_at is not None else 0
            caught_up = caught_up or not batch.full
            if not budget.rest(None if caught_up else batch.changed_at):
                return count
        self.changed = changed
        self._summarize(budget)
        return count

    def _summarize(self, budget: _TimeBudget) -> None:
        """Make summaries of full chunks while there is time, unless another clock is at it."""
        while self._mine is not None and self._summarizer.step(self._mine):
            self.at_rest = False
            if not budget.rest():
                return

    def _joined(self, batch: _Batch, budget: _TimeBudget) -> _Batch:
        """Return a batch with those that follow it, which are read in the state that it leaves."""
        while batch.goes_on and budget.rest(batch.changed_at):
            more = partial(reading.changed_since, place=batch.then.seen, redactor=self._redactor)
            batch = batch.joined(self._ledger.read(more, transaction=False))
        return batch

    def _next(self, caught_up: bool = False) -> _Batch | None:
        """Read the next batch. None when there is nothing to do, or another clock does it.

        `caught_up`: those that changed were read to the end just now.
        """

        def read(connection: sa.Connection) -> tuple[bool, _Batch | None]:
            # What this clock has written last, unless another one has come on: then this batch will not be written.
            found, now = self._known or state.read(connection), self._ledger.now()
            may = found is not None and self._may(found, now)
            self._mine = found if may else None
            return found is not None, self._read(connection, found, now, caught_up) if found and may else None

        begun, batch = self._ledger.read(read, transaction=False)
        if not begun:
            self._ledger.write(state.begin)
            _, batch = self._ledger.read(read, transaction=False)
        return batch

    def _may(self, found: IndexState, now: float) -> bool:
        return found.owner == self._owner or found.leased_until <= now or found.leased_until > now + 2 * LEASE

    def _read(self, connection: sa.Connection, found: IndexState, now: float, caught_up: bool) -> _Batch | None:
        if not caught_up:
            read = reading.changed_since(connection, found.seen, self._redactor)
            if read.last is not None:
                return _Batch(read.texts, found, replace(found, seen=read.last), read.more, read.last.at)
        settled = Place(min(now - state.SETTLED, found.seen.at))
        # Once nothing more comes, to the very end.
        least = CHECK_EVERY if settled.at < found.seen.at else 0.0
        if settled.at - found.checked.at > least:
            read = reading.missed_between(connection, found.checked, settled, self._redactor)
            return _Batch(read.texts, found, replace(found, checked=read.last or settled), full=True)
        if found.backfilled is not None:
            read = reading.changed_before(connection, found.backfilled, self._redactor)
            return _Batch(read.texts, found, replace(found, backfilled=read.last), full=True, backwards=True)
        self.at_rest = not caught_up and found.checked.at >= found.seen.at
        return None

    def _write(self, connection: sa.Connection, batch: _Batch, numbered: _Numbered) -> bool:
        """Write the batch. False when another clock has come on since it was read."""
        words = numbered.changes.reading()
        asked = [text.key for text in batch.texts if not text.new]
        locked, rows, *sets = statements.run(connection, state.LOCK.with_values(), _looking_up(asked), *words.asked)
        found, now = state.of_rows(locked), self._ledger.now()
        if (
            found is None
            or not self._may(found, now)
            or replace(found, owner="", leased_until=0.0) != replace(batch.read_in, owner="", leased_until=0.0)
        ):
            return False
        # Nobody has changed the index: what was new to it still is, and is there. Else retention may have removed some
        # runs, and never will again.
        untouched = found == batch.read_in
        if not untouched and batch.texts:
            asked = [text.key for text in batch.texts]
            (rows,) = statements.run(connection, _looking_up(asked))
        wanted = {*asked}
        there = {key: row.number for row in rows if row.there and (key := (row.source, row.run_id)) in wanted}
        if gone := wanted.difference(there):
            numbered = _numbered(replace(batch, texts=[text for text in batch.texts if text.key not in gone]))
        changes = numbered.changes
        if old := [number for number in there.values() if number is not None]:
            changes = changes.without((row.number, words_in(row.document)) for row in _known(connection, old))
        then = replace(numbered.then, owner=self._owner, leased_until=now + LEASE)
        changes.write(connection, words.of_rows(sets), *numbered.puts(connection, untouched), state.writing(then))
        self._known = then
        return True


class _Numbered(NamedTuple):
    """Runs with their numbers: the words that these get, the rows of their documents, and the state when they are
    written. `new`: of runs that the index had nothing of when they were read."""

    changes: WordChanges
    new: Mapping[str, list[Any]]
    others: Mapping[str, list[Any]]
    then: IndexState

    def puts(self, connection: sa.Connection, untouched: bool) -> list[BoundStatement]:
        """Return what writes the documents. `untouched`: nobody has changed the index since they were read."""
        puts = (_insert if untouched else _put, self.new), (_put, self.others)
        return [into.of_columns(connection, rows) for into, rows in puts if rows["number"]]


def _numbered(batch: _Batch) -> _Numbered:
    number, step = (batch.read_in.oldest, -1) if batch.backwards else (batch.read_in.newest, 1)
    changes = WordChanges()
    of_new, of_others = ([list[Any]() for _ in _COLUMNS] for _ in range(2))
    for text in batch.texts:
        number += step
        changes.add(number, text.said.words)
        values = number, *text.key, text.changed_at, text.said.document
        for column, value in zip(of_new if text.new else of_others, values, strict=True):
            column.append(value)
    then = replace(batch.then, oldest=number) if batch.backwards else replace(batch.then, newest=number)
    return _Numbered(
        changes, dict(zip(_COLUMNS, of_new, strict=True)), dict(zip(_COLUMNS, of_others, strict=True)), then
    )


_COLUMNS: Final = ("number", "source", "run_id", "changed_at", "document")


def remove(connection: sa.Connection, keys: Iterable[RunKey]) -> None:
    """Remove what is known of these runs, whose rows are gone. Call it last in a transaction: it waits for its turn."""
    wanted = set(keys)
    if not wanted or state.lock(connection) is None:
        return
    gone = list[int]()
    for source, run_ids in bulk.by_source(wanted):
        query = sa.select(run_texts.c.number).where(bulk.of_runs(connection, run_texts, source, run_ids))
        gone += connection.execute(query).scalars()
    said = [(row.number, words_in(row.document)) for row in _known(connection, gone)]
    WordChanges().without(said).write(connection)
    if gone:
        connection.execute(sa.delete(run_texts).where(bulk.among(connection, run_texts.c.number, gone)))
        summaries.remove_of_none(connection)
    state.mark_changed(connection)


def _known(connection: sa.Connection, numbers: Sequence[int]) -> Sequence[Any]:
    """Return the documents that have these numbers."""
    return statements.run(connection, _OF_NUMBERS.with_values(numbers=numbers))[0] if numbers else ()


_OF_NUMBERS: Final = BuiltStatement(
    lambda form: sa.select(run_texts.c.number, run_texts.c.document).where(
        bulk.among_given(form, run_texts.c.number, "numbers")
    )
)


def _look_up(form: StatementForm) -> Any:
    """Return the query that tells of each run whether it is there, and under which number, if any."""
    of_run = run_texts.c.source == runs.c.source, run_texts.c.run_id == runs.c.run_id
    if form is StatementForm.SQLITE:  # of several sources it finds some more: those with the id of another source's
        number = sa.select(run_texts.c.number).where(*of_run).scalar_subquery()
        return sa.select(runs.c.source, runs.c.run_id, sa.literal(1).label("there"), number.label("number")).where(
            bulk.among_given(form, runs.c.source, "sources"), bulk.among_given(form, runs.c.run_id, "run_ids")
        )
    if form is StatementForm.ONE:
        source, run_id = (sa.bindparam(name, type_=sa.Text()) for name in ("sources", "run_ids"))
    else:  # one by one, for of a ledger without statistics PostgreSQL would read all runs
        given = bulk.given_rows(sources=runs.c.source, run_ids=runs.c.run_id)
        source, run_id = given.c.sources, given.c.run_ids
    there = sa.select(sa.literal_column("1", sa.Integer())).where(runs.c.source == source, runs.c.run_id == run_id)
    numbered = sa.select(run_texts.c.number).where(run_texts.c.source == source, run_texts.c.run_id == run_id)
    return sa.select(
        source.label("source"),
        run_id.label("run_id"),
        there.scalar_subquery().label("there"),
        numbered.scalar_subquery().label("number"),
    )


_LOOK_UP: Final = BuiltStatement(_look_up)


def _looking_up(keys: Sequence[RunKey]) -> BoundStatement | None:
    """Return what looks up these runs, to be run with others."""
    return _LOOK_UP.with_values(sources=[key[0] for key in keys], run_ids=[key[1] for key in keys]) if keys else None
