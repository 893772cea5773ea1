"""The list of overdue results: submissions and runs that Skyvern is polled for.

The one that is due first comes first; one that was polled without a result is due again later.
"""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.database import dialect
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.database.dialect import each_value
from receiver.ledger.lists.filters import Condition, Filter, has, of_runs, of_submissions, same_run
from receiver.ledger.lists.paging import SCAN, Key, KeysetList, Page, Row, Walk, page_of
from receiver.ledger.schema import polls, runs, submissions

_SHOWN: Final = ("source", "run_id", "due_at", "polls", "reason", "noted_at", "created_at")
_LIST: Final = KeysetList(
    tuple(polls.c[name] for name in _SHOWN), [polls.c[each] for each in ("due_at", "source", "run_id")], True
)
_OF_BOTH: Final = ("run_type", "title", "prompt", "labels")
_OF_SUBMISSION: Final = tuple(
    submissions.c[name] for name in ("source", "run_id", *_OF_BOTH, "id", "call", "state", "created_at", "reason")
)
_OF_RUN: Final = tuple(runs.c[name] for name in ("source", "run_id", *_OF_BOTH, "submission_id"))
_ITS_SUBMISSION: Final = [
    submissions.c.source == polls.c.source,
    sa.or_(submissions.c.run_id == polls.c.run_id, submissions.c.id == polls.c.run_id),
]
_ITS_RUN: Final = same_run(runs, polls)


def list_missing(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN) -> Page:
    """Return a page of what is overdue: its first poll was due by now, and no final event has come.

    Each row has the time of its next poll (`due_at`), the number of `polls` without a result, and the reason if known.
    The filter is that of submissions, and for runs without a submission that of runs.
    """
    it = polls.c
    is_overdue = sa.or_(it.polls > 0, it.planned_at <= database_now(connection))
    needed = [is_overdue, has(polls, runs, _ITS_RUN, runs.c.final).is_not(sa.true()), *_of_polls(filters)]
    sources = [filters.source] if filters.source else connection.execute(each_value(it.source)).scalars()
    walk = Walk([[it.source == each] for each in sources], needed)
    # The times of the filter are those of submissions and runs, not `due_at`.
    found, rest = page_of(connection, _LIST, filters, needed, walk, after, limit, scan)
    return _dressed(connection, found), rest


def _of_polls(filters: Filter) -> list[Condition]:
    """Return the conditions of the filter on the submission of a poll, or else on its run."""
    its_source = [polls.c.source == filters.source] if filters.source else []
    if filters == Filter(source=filters.source):
        return its_source
    not_submitted = has(polls, submissions, _ITS_SUBMISSION).is_not(sa.true())
    matches = [
        has(polls, submissions, _ITS_SUBMISSION, *of_submissions(filters)),
        sa.and_(not_submitted, has(polls, runs, _ITS_RUN, *of_runs(filters))),
    ]
    if filters == Filter(source=filters.source, run_id=filters.run_id):  # all that is known of a run without an event
        matches.append(sa.and_(polls.c.run_id == filters.run_id, *its_source))
    return [sa.or_(*matches)]


def _dressed(connection: sa.Connection, found: list[Row]) -> list[Row]:
    """Return the rows with what is known of their submissions and runs."""
    keys = [(each["source"], each["run_id"]) for each in found]
    searched = dialect.among(submissions.c.id, [run_id for _, run_id in keys])
    of_submission = sa.select(*_OF_SUBMISSION).where(sa.or_(dialect.of_runs(submissions, keys), searched))
    submitted = {
        (row["source"], row["run_id"] or row["id"]): row for row in map(_fields, connection.execute(of_submission))
    }
    known = {
        (row["source"], row["run_id"]): row
        for row in map(_fields, connection.execute(sa.select(*_OF_RUN).where(dialect.of_runs(runs, keys))))
    }
    return [_row(each, submitted.get(key), known.get(key, {})) for each, key in zip(found, keys, strict=True)]


def _fields(row: sa.Row[Any]) -> Row:
    return dict(row._mapping)


def _row(poll: Row, submission: Row | None, run: Row) -> Row:
    its = submission or run
    return {
        "kind": "submission" if submission else "run",
        "source": poll["source"],
        "run_id": its.get("run_id", poll["run_id"]),
        "run_type": its.get("run_type", ""),
        "title": its.get("title"),
        "prompt": its.get("prompt"),
        "due_at": poll["due_at"],
        "polls": poll["polls"],
        "submission_id": submission["id"] if submission else run.get("submission_id", ""),
        "labels": json.loads(its.get("labels", "{}")),
        "reason": poll["reason"] or (submission["reason"] if submission else ""),
        "known_since": submission["created_at"] if submission else poll["created_at"],
        "call": submission["call"] if submission else "",
        "state": submission["state"] if submission else "",
        "ended_at": poll["noted_at"],
    }
