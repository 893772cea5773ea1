"""The one filter of all lists and of replays' selections, and what it means for runs, events and deliveries.

A filter means the same rows wherever it is used: a list, a count, a replay of "all that match".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.domain.words import BadSearch, TextQuery, parse_query
from receiver.errors import Invalid
from receiver.ledger.database.dialect import contains, contains_exactly, json_text, row_by_row
from receiver.ledger.lists.words import has_words
from receiver.ledger.schema import deliveries, events, run_texts, runs, submissions

FULL_ID = len("evt_") + 32
# What an id has at least one of.
VISIBLE: Final = re.compile("[!-~]")
_SHORTENED: Final = re.compile(r"(dlv|evt)_[0-9a-v][0-9a-f]{11,31}")
# Rows of a list by default.
LIMIT = 50

Condition = sa.ColumnElement[bool]

# The condition of the index by state, in its own words, by which a planner knows it.
NOT_DELIVERED: Final = deliveries.c.state != sa.literal_column("'delivered'")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of a list. What is empty filters nothing. Times: seconds since the epoch.

    `run_prefix`: how the run's id begins. `status`: outcomes of the run. `title`, `reason`: a part of it, with the
    letters A-Z in either case; the reason is the run's, or the delivery's. `labels`: all of them. `workflow`: its id.
    `delivery`: of deliveries, the id or its beginning. `sink`, `state`, `route`: of a delivery; a run or an event has
    one delivery to which all of them apply.
    `disposition`: of events. `outcome`: of attempts.
    `since`, `until`: of runs, when they changed; of events, when they were recorded; else, when they were created.
    `text`: words, all of which the run says: see `domain.words.parse_query`.

    A query with a text that the database cannot store, such as NUL, may raise LedgerDataError.
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
    delivery: str = ""
    disposition: Sequence[str] = ()
    outcome: Sequence[str] = ()


def begins(column: sa.ColumnElement[Any], beginning: str) -> sa.ColumnElement[bool]:
    """Return the condition that an id is or begins with `beginning`: people copy ids from tables that cut them."""
    if len(beginning) >= FULL_ID:
        return column == beginning
    # Ids have digits and the letters up to "v", which sort before "w" in every collation.
    return sa.and_(column >= beginning, column < beginning + "w")


def id_trouble(identifier: str) -> str:
    """Return what is wrong with an id, or "". One that is cut shorter than in tables would match too much."""
    if not VISIBLE.search(identifier):
        return "an id is empty"
    if identifier.startswith(("dlv_", "evt_")) and not _SHORTENED.fullmatch(identifier):
        return f"an id has 12 to 32 digits and letters after {identifier[:4]}, as lists show it"
    return ""


_ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1")


def has(of: sa.Table, table: sa.Table, key: Sequence[Condition], *conditions: Condition) -> Condition:
    """Return the condition that a row of `of` has one in `table` with this key, which meets the conditions.

    It is looked up for each row, by the key: no planner turns a scalar subquery into a join, which may read a whole
    table.
    """
    query = sa.select(_ONE).select_from(table).where(*key, row_by_row(*conditions)).correlate(of)
    return query.limit(1).scalar_subquery() == 1


def has_labels(column: sa.Column[Any], labels: Mapping[str, str]) -> list[Condition]:
    """Return the conditions that `column`, a JSON object of texts, has all these members."""
    # As json_text writes a pair; no name and no value can be taken for another, for both are quoted there.
    return [contains_exactly(column, json_text({name: labels[name]})[1:-1]) for name in sorted(labels)]


def text_query(text: str) -> TextQuery:
    """Return what the filter's `text` means. Raises Invalid."""
    try:
        return parse_query(text)
    except BadSearch as error:
        raise Invalid(f"text: {error}", [{"name": "text", "message": f"text: {error}"}]) from None


def unsuccessful(table: sa.Table) -> list[Condition]:
    """Return the conditions of the index on what went wrong, in its own words, by which a planner knows it."""
    return [table.c.outcome != sa.literal_column(value) for value in ("'completed'", "''")]


def in_states(*states: str) -> list[Condition]:
    """Return the conditions that a delivery is in one of these states."""
    its = deliveries.c.state
    one_of = its == states[0] if len(states) == 1 else its.in_(states)
    return [one_of] if DeliveryState.DELIVERED in states else [one_of, NOT_DELIVERED]


def same_run(table: sa.Table, other: sa.Table) -> list[Condition]:
    """Return the conditions that two rows are of the same run."""
    return [table.c.source == other.c.source, table.c.run_id == other.c.run_id]


def _equal(*pairs: tuple[sa.ColumnElement[Any], str]) -> list[Condition]:
    """Return the conditions that these columns have these values, except for empty ones."""
    return [column == value for column, value in pairs if value]


def _common(filters: Filter, table: sa.Table, moment: sa.Column[Any]) -> list[Condition]:
    """Return the conditions on columns that all of these tables have."""
    it = table.c
    found = _equal((it.source, filters.source), (it.run_id, filters.run_id))
    if filters.run_prefix:
        found.append(sa.func.substr(it.run_id, 1, len(filters.run_prefix)) == filters.run_prefix)
    if filters.since is not None:
        found.append(moment >= filters.since)
    if filters.until is not None:
        found.append(moment < filters.until)
    return found


def _ended(filters: Filter, table: sa.Table) -> list[Condition]:
    """Return the conditions on what runs and events have."""
    found: list[Condition] = [table.c.outcome.in_(filters.status)] if filters.status else []
    return [*found, *_equal((table.c.run_type, filters.run_type))]


def _of_run(filters: Filter) -> list[Condition]:
    """Return the conditions on what only the row of a run has, except for the reason, which others have too."""
    it = runs.c
    found = _equal((it.workflow_id, filters.workflow))
    if filters.title:
        found.append(contains(it.title, filters.title))
    found += has_labels(it.labels, filters.labels)
    if filters.text:
        found.append(has(runs, run_texts, same_run(run_texts, runs), *has_words(text_query(filters.text))))
    return found


def _of_delivery(filters: Filter) -> list[Condition]:
    """Return the conditions on what only a delivery has, except for its reason."""
    found = _equal((deliveries.c.sink, filters.sink), (deliveries.c.route, filters.route))
    return found + in_states(*filters.state) if filters.state else found


def _its_run(filters: Filter, table: sa.Table, own: sa.Column[Any]) -> list[Condition]:
    """Return the conditions on the run of a row of `table`, whose reason may also be in its `own` column."""
    found: list[Condition] = []
    if of_run := _of_run(filters):
        found.append(has(table, runs, same_run(runs, table), *of_run))
    if filters.reason:
        failed = has(table, runs, same_run(runs, table), contains(runs.c.failure_reason, filters.reason))
        found.append(sa.or_(contains(own, filters.reason), failed))
    return found


def of_submissions(filters: Filter) -> list[Condition]:
    """Return the conditions of a submission. Event, sink and route do not apply to it.

    Its state is one of its own. What both it and its run have may be in either.
    """
    it, run = submissions.c, runs.c

    def of_its_run(condition: Condition) -> Condition:
        return has(submissions, runs, same_run(runs, submissions), condition)

    found = [*_common(filters, submissions, it.created_at), *has_labels(it.labels, filters.labels)]
    if filters.state:
        found.append(it.state.in_(filters.state))
    if filters.status:
        found.append(of_its_run(run.outcome.in_(filters.status)))
    if filters.run_type:
        found.append(sa.or_(it.run_type == filters.run_type, of_its_run(run.run_type == filters.run_type)))
    if filters.title:
        found.append(sa.or_(contains(it.title, filters.title), of_its_run(contains(run.title, filters.title))))
    return found + _its_run(replace(filters, title="", labels={}), submissions, it.reason)


def of_runs(filters: Filter) -> list[Condition]:
    """Return the conditions of a run."""
    it = runs.c
    found = [*_common(filters, runs, it.updated_at), *_ended(filters, runs), *_of_run(filters)]
    if filters.reason:
        found.append(contains(it.failure_reason, filters.reason))
    if filters.event_id:
        found.append(has(runs, events, same_run(events, runs), begins(events.c.id, filters.event_id)))
    if own := _of_delivery(filters):
        found.append(has(runs, deliveries, same_run(deliveries, runs), *own))
    return found


def of_events(filters: Filter) -> list[Condition]:
    """Return the conditions of an event."""
    it = events.c
    found = [*_common(filters, events, it.recorded_at), *_ended(filters, events)]
    if filters.event_id:
        found.append(begins(it.id, filters.event_id))
    if filters.disposition:
        found.append(it.disposition.in_(filters.disposition))
    if own := _of_delivery(filters):
        found.append(has(events, deliveries, [deliveries.c.event_id == events.c.id], *own))
    return found + _its_run(filters, events, it.problem)


def of_deliveries(filters: Filter) -> list[Condition]:
    """Return the conditions of a delivery."""
    it = deliveries.c
    found = [*_common(filters, deliveries, it.created_at), *_of_delivery(filters)]
    if filters.delivery:
        found.append(begins(it.id, filters.delivery))
    if filters.event_id:
        found.append(begins(it.event_id, filters.event_id))
    if ended := _ended(filters, events):
        found.append(has(deliveries, events, [events.c.id == it.event_id], *ended))
    return found + _its_run(filters, deliveries, it.reason)
