"""Recording events that are the first of their run, on SQLite: what first_events.py does in one statement.

Nobody else writes during a transaction. So it first asks which runs are new, and then inserts rows without conditions.
Their values are given by place, and no ids are returned: by name, and with ids returned, a row costs twice the CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.ledger import bulk, statements, words
from receiver.ledger.events import status_update
from receiver.ledger.schema import deliveries, events, runs, submissions
from receiver.ledger.statements import BoundStatement, BuiltStatement


def new_runs(connection: sa.Connection, keys: Collection[RunKey], submitted: Mapping[RunKey, str]) -> set[RunKey]:
    """Return the runs of which nothing is known, and those that have no event, and the submission of `submitted`."""
    by_source = bulk.by_source(keys)
    asked = [
        *(_THERE.with_values(b_source=source, b_run_ids=ids) for source, ids in by_source),
        *(_SUBMITTED.with_values(b_source=source, b_run_ids=ids) for source, ids in by_source),
    ]
    found = statements.run(connection, *asked)
    there, of_submissions = found[: len(by_source)], found[len(by_source) :]
    known = {(row.source, row.run_id) for rows in (*there, *of_submissions) for row in rows}
    awaited = {
        key
        for rows in there
        for row in rows
        if row.events == 0 and submitted.get(key := (row.source, row.run_id)) == row.submission_id
    }
    return {key for key in keys if key not in known or key in awaited}


def insertions(
    connection: sa.Connection,
    run: Mapping[str, Sequence[Any]],
    event: Mapping[str, Sequence[Any]],
    made: Sequence[dict[str, Any]],
    now: float,
) -> list[BoundStatement]:
    """Return what records events whose runs are `new_runs`. `run`, `event`: the values of each column. `made`: the rows
    of their deliveries."""
    count = len(event["id"])
    times: Sequence[Any] = [now] * count
    of_run = {**run, "events": [1] * count, "first_seen_at": times, "updated_at": times}
    asked = [
        (_of_submissions if "submission_id" in run else _runs).of_columns(connection, of_run),
        _events.of_columns(connection, {**event, "recorded_at": times}),
    ]
    if queueing := words.queueing(connection, zip(event["source"], event["run_id"], strict=True), now):
        asked.append(queueing)
    return [*asked, _deliveries.of(connection, made)] if made else asked


_THERE: Final = BuiltStatement(
    lambda form: sa.select(runs.c.source, runs.c.run_id, runs.c.submission_id, runs.c.events).where(
        bulk.of_given_runs(form, runs)
    )
)
_SUBMITTED: Final = BuiltStatement(
    lambda form: sa.select(submissions.c.source, submissions.c.run_id).where(bulk.of_given_runs(form, submissions))
)


def _give_status(insert: Any) -> Any:
    """Give a run that is there because it was submitted the status of its first event."""
    given = insert.excluded
    changed = {"due_at": sa.func.coalesce(runs.c.due_at, given.due_at), "updated_at": given.updated_at}
    return insert.on_conflict_do_update(
        index_elements=[runs.c.source, runs.c.run_id], set_=status_update(insert) | changed
    )


# An event that is there though its run is new is refused, and all is then recorded with the runs locked.
_runs: Final = bulk.Insert(runs, lambda insert: insert)
_of_submissions: Final = bulk.Insert(runs, _give_status)
_events: Final = bulk.Insert(events, lambda insert: insert)
_deliveries: Final = bulk.Insert(deliveries, lambda insert: insert)
