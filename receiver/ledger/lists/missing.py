"""The list of results that are overdue: submissions that Skyvern is asked for, then runs that no submission is for.

The one that is due first comes first; one that was asked for in vain is due again later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.database_clock import database_now
from receiver.ledger.dialect import each_value
from receiver.ledger.filters import Condition, Filter, of_runs, of_submissions
from receiver.ledger.lists.paging import Key, KeysetList, Page, Row, Walk, page_of
from receiver.ledger.schema import runs, submissions

_BOTH: Final = ("source", "run_id", "run_type", "title", "labels", "due_at", "polls")
_OF_SUBMISSION: Final = tuple(submissions.c[name] for name in (*_BOTH, "id", "call", "state", "created_at", "reason"))
_OF_RUN: Final = tuple(runs.c[name] for name in (*_BOTH, "submission_id", "first_seen_at", "noted_at"))
_SUBMISSIONS: Final = KeysetList(_OF_SUBMISSION, [submissions.c[each] for each in ("due_at", "source", "id")], True)
_RUNS: Final = KeysetList(_OF_RUN, [runs.c[each] for each in ("due_at", "source", "run_id")], True)


def list_missing(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of what is overdue: its first poll was due by now, and no final event has come.

    Each has when it is polled next (`due_at`), how often it was in vain (`polls`), and why, where that is known. The
    filter is that of submissions, and for runs that of runs.
    """
    now = database_now(connection)
    rows: list[Row] = []
    part, place = (0, None) if after is None else (after[0], after[1:])
    if part == 0:
        found, rest = _page(connection, _SUBMISSIONS, wanted, of_submissions(wanted), now, place, limit)
        rows = [_of_submission(each) for each in found]
        if rest is not None:
            return rows, (0, *rest)
        place = None
        if len(rows) == limit:  # which of the runs are missing is for the next page to say
            return rows, (1, 0.0, "", "")
    found, rest = _page(
        connection, _RUNS, wanted, [runs.c.final.is_(False), *of_runs(wanted)], now, place, limit - len(rows)
    )
    rows += [_of_run(each) for each in found]
    return rows, None if rest is None else (1, *rest)


def _page(
    connection: sa.Connection,
    listing: KeysetList,
    wanted: Filter,
    conditions: Sequence[Condition],
    now: float,
    after: Key | None,
    limit: int,
) -> Page:
    table = listing.key[0].table
    it = table.c
    is_due = it.due_at.is_not(None)
    sources = [wanted.source] if wanted.source else connection.execute(each_value(it.source, is_due)).scalars()
    needed = [sa.or_(it.polls > 0, it.due_at <= now), *conditions]
    walk = Walk([[it.source == each, is_due] for each in sources], needed)
    # Its times are those of submissions and runs, and not of when they are due.
    return page_of(connection, listing, wanted, [is_due, *needed], walk, after, limit)


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
