"""The list of overdue results: submissions that Skyvern is polled for, then runs without a submission.

The one that is due first comes first; one that was polled without a result is due again later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from receiver.ledger.database_clock import database_now
from receiver.ledger.dialect import each_value
from receiver.ledger.filters import Condition, Filter, of_runs, of_submissions
from receiver.ledger.lists.paging import SCAN, Key, KeysetList, Page, Row, Walk, page_of
from receiver.ledger.schema import runs, submissions

_BOTH: Final = ("source", "run_id", "run_type", "title", "prompt", "due_at", "polls", "labels")
_OF_SUBMISSION: Final = tuple(submissions.c[name] for name in (*_BOTH, "id", "call", "state", "created_at", "reason"))
_OF_RUN: Final = tuple(runs.c[name] for name in (*_BOTH, "submission_id", "first_seen_at", "noted_at"))
_SUBMISSIONS: Final = KeysetList(_OF_SUBMISSION, [submissions.c[each] for each in ("due_at", "source", "id")], True)
_RUNS: Final = KeysetList(_OF_RUN, [runs.c[each] for each in ("due_at", "source", "run_id")], True)


def list_missing(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN) -> Page:
    """Return a page of what is overdue: its first poll was due by now, and no final event has come.

    Each row has the time of its next poll (`due_at`), the number of `polls` without a result, and the reason if known.
    The filter is that of submissions, and for runs that of runs.
    """
    now = database_now(connection)
    rows: list[Row] = []
    part, place = (0, None) if after is None else (after[0], after[1:])
    if part == 0:
        found, rest = _page(connection, _SUBMISSIONS, filters, of_submissions(filters), now, place, limit, scan)
        rows = [_row(each, "submission", each["id"], each["created_at"], each["reason"]) for each in found]
        if rest is not None:
            return rows, (0, *rest)
        place = None
        if len(rows) == limit:  # the next page begins with the runs
            return rows, (1, 0.0, "", "")
    missing = [runs.c.final.is_(False), *of_runs(filters)]
    found, rest = _page(connection, _RUNS, filters, missing, now, place, limit - len(rows), scan)
    rows += [_row(each, "run", each["submission_id"], each["first_seen_at"]) for each in found]
    return rows, None if rest is None else (1, *rest)


def _page(
    connection: sa.Connection,
    listing: KeysetList,
    filters: Filter,
    conditions: Sequence[Condition],
    now: float,
    after: Key | None,
    limit: int,
    scan: int,
) -> Page:
    it = listing.key[0].table.c
    is_due = it.due_at.is_not(None)
    sources = [filters.source] if filters.source else connection.execute(each_value(it.source, is_due)).scalars()
    needed = [sa.or_(it.polls > 0, it.due_at <= now), *conditions]
    walk = Walk([[it.source == each, is_due] for each in sources], needed)
    # The times of the filter are those of submissions and runs, not `due_at`.
    return page_of(connection, listing, filters, [is_due, *needed], walk, after, limit, scan)


def _row(row: Row, kind: str, submission_id: str, since: float, reason: str = "") -> Row:
    same = {name: row[name] for name in _BOTH[:-1]}
    return {
        "kind": kind,
        **same,
        "submission_id": submission_id,
        "labels": json.loads(row["labels"]),
        "reason": reason,
        "known_since": since,
        "call": row.get("call", ""),
        "state": row.get("state", ""),
        "ended_at": row.get("noted_at"),
    }
