"""Load what decides about a batch of events: their runs, with earlier events and submissions; and lanes that are shut.

A recording reads nothing after this. The rows of runs and submissions stay locked until its transaction ends.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain import shape
from receiver.domain.deduplication import Facts
from receiver.domain.extent import parse_extent
from receiver.domain.history import NO_HISTORY, RunHistory
from receiver.domain.parsed_event import ParsedEvent, completion_of_text
from receiver.domain.run import RunKey, parse
from receiver.domain.submission import Submission
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.database.errors import Outdated
from receiver.ledger.deliveries import lanes
from receiver.ledger.recording import binding
from receiver.ledger.recording.binding import Reported
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.submissions import records


class KnownRuns(NamedTuple):
    """`runs`: those with a row, and erased ones of test webhooks. `shut`: which of the given lanes are."""

    runs: Mapping[RunKey, RunHistory]
    shut: Collection[str] = ()


def load(connection: sa.Connection, batch: Sequence[ParsedEvent], lane_names: Collection[str], now: float) -> KnownRuns:
    """Lock the runs of a batch, bind them to their submissions, and load what is known of them.

    Raises Outdated if another transaction inserts one of the runs.
    """
    reported = [Reported.of(each) for each in batch if each.run.run_id and not each.run.test]
    # Rows to which a submission or a link is written. They come before submissions are locked.
    needed = [key for each in reported if each.token or each.linked for key in (each.key, *each.linked)]
    rows = lock(connection, {*(each.key for each in reported), *needed}, now, needed)
    named = {key: row.submission_id for key, row in rows.items() if row.submission_id}
    asked = [each for each in reported if each.token or each.linked or each.key in named]
    bound = records.for_callers(connection, binding.bind(connection, asked, now, named))
    found = erased(connection, [each.key for each in batch if each.run.test])
    found |= {key: _history(row, bound.get(key)) for key, row in rows.items()}
    found |= _with_events(connection, found, [key for key, row in rows.items() if row.events])
    _add_details(connection, batch, found)
    return KnownRuns(found, lanes.shut_among(connection, lane_names))


def _history(row: Any, submission: Submission | None) -> RunHistory:
    labels = json.loads(row.labels) if row.labels != "{}" else {}
    if submission and not row.submission_id:
        labels = submission.labels
    late = submission is not None and not row.submission_id and row.events > 0
    return RunHistory(labels, submission, late=late, erased=row.erased_at is not None)


_ROW: Final = tuple(
    runs.c[name] for name in ("source", "run_id", "labels", "submission_id", "events", "final", "erased_at")
)
_LOCKED: Final = (
    sa.select(*_ROW)
    .where(dialect.of_given_runs(runs))
    .order_by(runs.c.source, runs.c.run_id)
    # Of two recordings, the second one reads what the first one wrote.
    .with_for_update()
)


def lock(
    connection: sa.Connection, keys: Collection[RunKey], now: float, needed: Collection[RunKey] = ()
) -> dict[RunKey, Any]:
    """Lock existing runs until the transaction ends, and return their rows. Inserts missing ones that are `needed`.

    Raises Outdated if another transaction inserts one of these.
    """
    if not keys:
        return {}
    rows: list[Any] = list(connection.execute(_LOCKED, dialect.given_runs(keys)))
    if missing := sorted(set(needed) - {(row.source, row.run_id) for row in rows}):
        new = [{"source": key[0], "run_id": key[1], "first_seen_at": now, "updated_at": now} for key in missing]
        made = many_rows.insert_many(connection, runs, new, many_rows.do_nothing, _ROW)
        if len(made) < len(missing):
            raise Outdated("a run")
        rows += made
    return {(row.source, row.run_id): row for row in rows}


def erased(connection: sa.Connection, keys: Collection[RunKey]) -> dict[RunKey, RunHistory]:
    """Return those of the runs that were erased. The others are not until this transaction ends.

    For test webhooks, which lock no run.
    """
    if not keys:
        return {}
    it = runs.c
    query = sa.select(it.source, it.run_id, it.erased_at).where(dialect.of_runs(runs, keys))
    rows = connection.execute(query.order_by(it.source, it.run_id).with_for_update(read=True))
    return {(row.source, row.run_id): RunHistory(erased=True) for row in rows if row.erased_at is not None}


# The events of runs. The last columns are those of Facts.
_EVENTS: Final = (
    sa.select(
        *(events.c.source, events.c.run_id, events.c.disposition),
        *(events.c["id" if name == "event_id" else name] for name in Facts._fields),
    )
    .where(dialect.of_given_runs(events))
    .order_by(events.c.seq)
)


def _with_events(
    connection: sa.Connection, found: Mapping[RunKey, RunHistory], keys: Collection[RunKey]
) -> Iterator[tuple[RunKey, RunHistory]]:
    """Yield these runs with the facts and ids of their events."""
    facts: defaultdict[RunKey, list[Facts]] = defaultdict(list)
    ids: defaultdict[RunKey, set[str]] = defaultdict(set)
    for row in connection.execute(_EVENTS, dialect.given_runs(keys)) if keys else ():
        key = row.source, row.run_id
        ids[key].add(row.id)
        if row.extent and row.disposition not in ("unreadable", "test"):  # without extent: it was erased
            facts[key].append(Facts(*row[-len(Facts._fields) :])._replace(extent=parse_extent(row.extent)))
    for key in keys:
        yield key, found[key]._replace(facts=tuple(facts[key]), recorded=ids[key])


def _add_details(connection: sa.Connection, batch: Iterable[ParsedEvent], found: dict[RunKey, RunHistory]) -> None:
    """Add what new events of known runs may need of earlier ones: members that they lack, and sinks of their result.

    An event that is completed later needs no more than what is loaded here.
    """
    bodies: dict[str, RunKey] = {}
    told: dict[str, RunKey] = {}
    for each in batch:
        history = found.get(each.key, NO_HISTORY)
        if history.facts and each.facts and not each.run.test and each.event.id not in history.recorded:
            bodies |= dict.fromkeys(filter(None, history.fuller(each.facts)), each.key)
            told |= dict.fromkeys(history.same_result(each.facts), each.key)
    members: defaultdict[RunKey, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    if bodies:
        query = sa.select(events.c.id, events.c.body, events.c.completion).where(
            dialect.among(events.c.id, sorted(bodies))
        )
        for row in connection.execute(query).all():
            data = parse(bytes(row.body)).data
            members[bodies[row.id]][row.id] = shape.completed(data, completion_of_text(row.completion))
    sinks: defaultdict[RunKey, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    if told:
        its = dialect.among(deliveries.c.event_id, sorted(told))
        for event_id, sink in connection.execute(sa.select(deliveries.c.event_id, deliveries.c.sink).where(its)):
            sinks[told[event_id]][event_id].add(sink)
    for key in {*bodies.values(), *told.values()}:
        found[key] = found[key]._replace(members=members[key], sinks=sinks[key])
