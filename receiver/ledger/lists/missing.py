"""The list of results that are overdue: submissions that Skyvern is asked for, then runs that no submission is for.

The one that is due first comes first; one that was asked for in vain is due again later.
"""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.database_clock import database_now
from receiver.ledger.filters import Filter, of_runs, of_submissions
from receiver.ledger.lists import narrowing
from receiver.ledger.lists.paging import Key, Order, Page, Row, Search
from receiver.ledger.schema import runs, submissions

_SUBMISSIONS: Final = Order((submissions.c.due_at, submissions.c.source, submissions.c.id), ascending=True)
_RUNS: Final = Order((runs.c.due_at, runs.c.source, runs.c.run_id), ascending=True)
_BOTH: Final = ("source", "run_id", "run_type", "title", "labels", "due_at", "polls")
_OF_SUBMISSION: Final = tuple(submissions.c[name] for name in (*_BOTH, "id", "call", "state", "created_at", "reason"))
_OF_RUN: Final = tuple(runs.c[name] for name in (*_BOTH, "submission_id", "first_seen_at", "noted_at"))


def list_missing(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of what is overdue: its first poll was due by now, and no final event has come.

    Each has when it is polled next (`due_at`), how often it was in vain (`polls`), and why, where that is known. The
    filter is that of submissions, and for runs that of runs.
    """
    if wanted.impossible:
        return [], None
    now = database_now(connection)
    rows: list[Row] = []
    part, place = (0, None) if after is None else (after[0], after[1:])
    if part == 0:
        found, rest = _submissions(connection, wanted, now).page(connection, place, limit)
        rows = [_of_submission(each) for each in found]
        if rest is not None:
            return rows, (0, *rest)
        place = None
        if len(rows) == limit:  # which of the runs are missing is for the next page to say
            return rows, (1, 0.0, "", "")
    found, rest = _runs(connection, wanted, now).page(connection, place, limit - len(rows))
    rows += [_of_run(each) for each in found]
    return rows, None if rest is None else (1, *rest)


def _submissions(connection: sa.Connection, wanted: Filter, now: float) -> Search:
    it = submissions.c
    sources = [wanted.source] if wanted.source else narrowing.sources(connection, submissions)
    return Search(
        _SUBMISSIONS,
        columns=_OF_SUBMISSION,
        conditions=[sa.or_(it.polls > 0, it.due_at <= now), *of_submissions(wanted, bounded=True)],
        walks=[[it.source == each, it.due_at.is_not(None)] for each in sources],
        sets=narrowing.by_run(wanted, submissions),
        of_sets=[it.due_at.is_not(None)],
    )


def _runs(connection: sa.Connection, wanted: Filter, now: float) -> Search:
    it = runs.c
    sources = [wanted.source] if wanted.source else narrowing.sources(connection, runs)
    return Search(
        _RUNS,
        columns=_OF_RUN,
        conditions=[
            it.final.is_(False),
            sa.or_(it.polls > 0, it.due_at <= now),
            *of_runs(wanted, bounded=True),
        ],
        walks=[[it.source == each, it.due_at.is_not(None)] for each in sources],
        sets=[*narrowing.by_event(wanted, runs), *narrowing.by_run(wanted, runs)],
        of_sets=[it.due_at.is_not(None)],
    )


def _of_submission(row: Row) -> Row:
    return _row(row, "submission", row["id"], row["created_at"], call=row["call"], state=row["state"])


def _of_run(row: Row) -> Row:
    return _row(row, "run", row["submission_id"], row["first_seen_at"], ended_at=row["noted_at"])


def _row(row: Row, kind: str, submission_id: str, since: float, **further: Any) -> Row:
    same = {name: row[name] for name in ("source", "run_id", "run_type", "title", "due_at", "polls")}
    told = {"call": "", "state": "", "ended_at": None, **further}
    return {
        "kind": kind,
        **same,
        "submission_id": submission_id,
        "labels": json.loads(row["labels"]),
        "reason": row.get("reason", ""),
        "known_since": since,
        **told,
    }
