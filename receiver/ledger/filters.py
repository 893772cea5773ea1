"""The one filter of all lists and of replays' selections, and what it means for runs, events and deliveries.

A filter means the same rows wherever it is used: a list, a count, a replay of "all that match".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.words import BadSearch, TextQuery, parse_query
from receiver.errors import Invalid
from receiver.ledger.deliveries_by_event import of_event
from receiver.ledger.expressions import contains, contains_exactly, starts_with, unindexed
from receiver.ledger.schema import deliveries, events, run_texts, runs, submissions
from receiver.ledger.words import has_words

FULL_ID = len("evt_") + 32
# What an id has at least one of.
VISIBLE: Final = re.compile("[!-~]")
_SHORTENED: Final = re.compile(r"(dlv|evt)_[0-9a-v][0-9a-f]{11,31}")
# Rows of a list by default.
LIMIT = 50

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of a list. What is empty filters nothing. Times: seconds since the epoch.

    `run_prefix`: how the run's id begins. `status`: outcomes of the run. `title`, `reason`: a part of it, with the
    letters A-Z in either case; the reason is the run's, or the delivery's. `labels`: all of them. `workflow`: its id.
    `sink`, `state`, `route`: of a delivery; a run or an event has one delivery to which all of them apply.
    `since`, `until`: of runs, when they changed; of events, when they were recorded; else, when they were created.
    `text`: words, all of which the run says: see `domain.words.parse_query`.
    """

    source: str = ""
    run_id: str = ""
    run_prefix: str = ""
    event_id: str = ""
    status: Sequence[str] = ()
    run_type: str = ""
    workflow: str = ""
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    route: str = ""
    sink: str = ""
    state: Sequence[str] = ()
    reason: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""
    limit: int = LIMIT

    @property
    def impossible(self) -> bool:
        """Whether it names what no database can hold as text, so that nothing can match."""
        return not all(map(is_storable, self._texts()))

    def _texts(self) -> Iterator[str]:
        for each in fields(Filter):
            value = getattr(self, each.name)
            if isinstance(value, str):
                yield value
            elif isinstance(value, Mapping):
                yield from (*value.keys(), *value.values())
            elif isinstance(value, Sequence):
                yield from value


def is_storable(text: str) -> bool:
    """Whether both databases can hold it as text, and be asked for it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half a character
        return False


def begins(column: sa.ColumnElement[Any], beginning: str) -> sa.ColumnElement[bool]:
    """Return the condition that an id is or begins with `beginning`: people copy ids from tables that cut them."""
    if len(beginning) >= FULL_ID:
        return column == beginning
    # Ids have digits and the letters up to "v", which sort before "w" in every collation.
    return sa.and_(column >= beginning, column < beginning + "w")


def id_trouble(identifier: str) -> str:
    """Return what is wrong with an id, or "". One cut shorter than tables cut it would mean all that begin so."""
    if not VISIBLE.search(identifier):
        return "an id is empty"
    if identifier.startswith(("dlv_", "evt_")) and not _SHORTENED.fullmatch(identifier):
        return f"an id has 12 to 32 digits and letters after {identifier[:4]}, as lists show it"
    return ""


class _Terms:
    """How conditions are written. `bounded`: for a statement that itself reads a bounded number of rows, so that
    neither an index nor a join may be chosen for a condition: a join by hash would read all of the other table."""

    def __init__(self, *, bounded: bool) -> None:
        self._bounded = bounded

    def name(self, column: sa.Column[Any]) -> Any:
        """Return the column as a condition names it."""
        return unindexed(column) if self._bounded else column

    def there_is(self, table: sa.Table, conditions: Sequence[Condition], of: sa.Table) -> Condition:
        """Return the condition that `table` has a row that belongs to one of `of`."""
        query = sa.select(_ONE).select_from(table).where(*conditions).correlate(of)
        # No planner turns a scalar subquery into a join.
        return query.limit(1).scalar_subquery() == 1 if self._bounded else query.exists()

    def common(
        self,
        wanted: Filter,
        source: sa.Column[Any],
        run_id: sa.Column[Any],
        moment: sa.Column[Any],
        outcome: sa.Column[Any] | None = None,
        run_type: sa.Column[Any] | None = None,
    ) -> list[Condition]:
        """Return the conditions on columns that most tables have; None where one has none."""
        found: list[Condition] = []
        if wanted.source:
            found.append(self.name(source) == wanted.source)
        if wanted.run_id:
            found.append(self.name(run_id) == wanted.run_id)
        if wanted.run_prefix:
            found.append(starts_with(run_id, wanted.run_prefix))
        if wanted.status and outcome is not None:
            found.append(self.name(outcome).in_(wanted.status))
        if wanted.run_type and run_type is not None:
            found.append(self.name(run_type) == wanted.run_type)
        if wanted.since is not None:
            found.append(self.name(moment) >= wanted.since)
        if wanted.until is not None:
            found.append(self.name(moment) < wanted.until)
        return found

    def run(self, wanted: Filter) -> list[Condition]:
        """Return the conditions on what only the row of a run has, but for the reason, which others have too."""
        it = runs.c
        found: list[Condition] = []
        if wanted.workflow:
            found.append(self.name(it.workflow_id) == wanted.workflow)
        if wanted.title:
            found.append(contains(it.title, wanted.title))
        found += has_labels(it.labels, wanted.labels)
        if wanted.text:
            said = [run_texts.c.source == it.source, run_texts.c.run_id == it.run_id]
            found.append(self.there_is(run_texts, [*said, *has_words(text_query(wanted.text))], runs))
        return found

    def delivery(self, wanted: Filter) -> list[Condition]:
        """Return the conditions on what only a delivery has, but for its reason."""
        it = deliveries.c
        found: list[Condition] = []
        if wanted.sink:
            found.append(self.name(it.sink) == wanted.sink)
        if wanted.route:
            found.append(self.name(it.route) == wanted.route)
        if wanted.state:
            found.append(self.name(it.state).in_(wanted.state))
        return found

    def its_run(self, wanted: Filter, table: sa.Table, reason: sa.Column[Any]) -> list[Condition]:
        """Return the conditions on the run of a row of `table`, whose own reason is in `reason`."""
        its = [runs.c.source == table.c.source, runs.c.run_id == table.c.run_id]
        found: list[Condition] = []
        if own := _FREE.run(wanted):
            found.append(self.there_is(runs, [*its, *own], table))
        if wanted.reason:
            failed = self.there_is(runs, [*its, contains(runs.c.failure_reason, wanted.reason)], table)
            found.append(sa.or_(contains(reason, wanted.reason), failed))
        return found


_ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1")
# Within the subquery of one row: by its key.
_FREE: Final = _Terms(bounded=False)


def has_labels(column: sa.Column[Any], labels: Mapping[str, str]) -> list[Condition]:
    """Return the conditions that `column`, a JSON object of texts, has all these members."""
    # As json.dumps writes a pair; no name and no value can be taken for another, for both are quoted there.
    return [contains_exactly(column, f"{json.dumps(name)}: {json.dumps(labels[name])}") for name in sorted(labels)]


def text_query(text: str) -> TextQuery:
    """Return what the filter's `text` means. Raises Invalid."""
    try:
        return parse_query(text)
    except BadSearch as error:
        raise Invalid(f"text: {error}", [{"name": "text", "message": f"text: {error}"}]) from None


def of_submissions(wanted: Filter, *, bounded: bool = False) -> list[Condition]:
    """Return the conditions that a submission is wanted; event, sink and route say nothing of one. `bounded`: see
    `_Terms`.

    Its state is one of its own, and what both it and its run have may be in either.
    """
    if wanted.impossible:
        return [sa.false()]
    it, terms, run = submissions.c, _Terms(bounded=bounded), runs.c
    found = terms.common(wanted, it.source, it.run_id, it.created_at)
    found += has_labels(it.labels, wanted.labels)
    its = [run.source == it.source, run.run_id == it.run_id]
    if wanted.state:
        found.append(terms.name(it.state).in_(wanted.state))
    if wanted.status:
        found.append(terms.there_is(runs, [*its, run.outcome.in_(wanted.status)], submissions))
    if wanted.run_type:
        of_run = terms.there_is(runs, [*its, run.run_type == wanted.run_type], submissions)
        found.append(sa.or_(terms.name(it.run_type) == wanted.run_type, of_run))
    if wanted.title:
        of_run = terms.there_is(runs, [*its, contains(run.title, wanted.title)], submissions)
        found.append(sa.or_(contains(it.title, wanted.title), of_run))
    if own := _FREE.run(replace(wanted, title="", labels={})):
        found.append(terms.there_is(runs, [*its, *own], submissions))
    if wanted.reason:
        of_run = terms.there_is(runs, [*its, contains(run.failure_reason, wanted.reason)], submissions)
        found.append(sa.or_(contains(it.reason, wanted.reason), of_run))
    return found


def of_runs(wanted: Filter, *, bounded: bool = False) -> list[Condition]:
    """Return the conditions that a run is wanted. `bounded`: see `_Terms`."""
    if wanted.impossible:
        return [sa.false()]
    it, terms = runs.c, _Terms(bounded=bounded)
    found = terms.common(wanted, it.source, it.run_id, it.updated_at, it.outcome, it.run_type)
    found += terms.run(wanted)
    if wanted.reason:
        found.append(contains(it.failure_reason, wanted.reason))
    if wanted.event_id:
        named = begins(terms.name(events.c.id), wanted.event_id)  # of the run's own events, which are found by the run
        its = [events.c.source == it.source, events.c.run_id == it.run_id, named]
        found.append(terms.there_is(events, its, runs))
    if own := terms.delivery(wanted):
        its = [deliveries.c.source == it.source, deliveries.c.run_id == it.run_id]
        found.append(terms.there_is(deliveries, [*its, *own], runs))
    return found


def of_events(wanted: Filter, *, bounded: bool = False) -> list[Condition]:
    """Return the conditions that an event is wanted. `bounded`: see `_Terms`."""
    if wanted.impossible:
        return [sa.false()]
    it, terms = events.c, _Terms(bounded=bounded)
    found = terms.common(wanted, it.source, it.run_id, it.recorded_at, it.outcome, it.run_type)
    if wanted.event_id:
        found.append(begins(terms.name(it.id), wanted.event_id))
    if own := terms.delivery(wanted):
        found.append(terms.there_is(deliveries, [of_event(events), *own], events))
    return found + terms.its_run(wanted, events, it.problem)


def of_deliveries(wanted: Filter, *, bounded: bool = False) -> list[Condition]:
    """Return the conditions that a delivery is wanted. `bounded`: see `_Terms`."""
    if wanted.impossible:
        return [sa.false()]
    it, terms = deliveries.c, _Terms(bounded=bounded)
    found = terms.common(wanted, it.source, it.run_id, it.created_at)
    if wanted.event_id:
        found.append(begins(terms.name(it.event_id), wanted.event_id))
    found += terms.delivery(wanted)
    told: list[Condition] = []
    if wanted.status:
        told.append(events.c.outcome.in_(wanted.status))
    if wanted.run_type:
        told.append(events.c.run_type == wanted.run_type)
    if told:
        found.append(terms.there_is(events, [events.c.id == it.event_id, *told], deliveries))
    return found + terms.its_run(wanted, deliveries, it.reason)


def matching_events(query: sa.Select[Any], wanted: Filter) -> sa.Select[Any]:
    """Narrow `query`, which is of events, to those that are wanted."""
    return query.where(*of_events(wanted))


def matching_deliveries(wanted: Filter) -> sa.Select[Any]:
    """Return the query for deliveries, without order or limit, joined with their events."""
    query = sa.select(
        deliveries,
        events.c.outcome.label("status"),
        events.c.run_type,
        events.c.via,
        events.c.received_at,
    ).join(events, events.c.id == deliveries.c.event_id)
    return query.where(*of_deliveries(wanted))
