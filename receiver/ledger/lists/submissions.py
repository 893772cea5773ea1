"""The list of submissions, the newest first, and one of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger import polls
from receiver.ledger.database import dialect
from receiver.ledger.lists.filters import Filter, of_submissions
from receiver.ledger.lists.paging import SCAN, Key, KeysetList, Page, Walk, page_of
from receiver.ledger.schema import runs, submissions

# The caller's address, of which only its presence is shown, and key may hold secrets, and its answer is a result.
_UNSHOWN: Final = frozenset({"idempotency_key", "request_hash", "answer"})
_SHOWN: Final = tuple(column for column in submissions.c if column.name not in _UNSHOWN)
LISTING: Final = KeysetList(_SHOWN, (submissions.c.created_at, submissions.c.id))


def list_submissions(
    connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN
) -> Page:
    """Return a page of the submissions without their answers, each with its run's `status` if that is known.

    Of the filter, event, sink and route say nothing of a submission; its `state` is one of its own.
    """
    rest = replace(filters, since=None, until=None)
    walk = Walk(conditions=of_submissions(rest), since=filters.since, until=filters.until)
    found, end = page_of(connection, LISTING, filters, of_submissions(filters), walk, after, limit, scan)
    return _dressed(connection, found), end


def get(connection: sa.Connection, submission_id: str, source: str = "") -> dict[str, Any] | None:
    """Return a submission as the list has it, or None. `source`: only if it is one of this source."""
    query = sa.select(*_SHOWN).where(submissions.c.id == submission_id)
    row = connection.execute(query.where(submissions.c.source == source) if source else query).first()
    return None if row is None else _dressed(connection, [dict(row._mapping)])[0]


def _dressed(connection: sa.Connection, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with their labels and requests as values, their runs' outcomes, and their polls."""
    its = dialect.of_runs(runs, ((each["source"], each["run_id"]) for each in found))
    outcomes = {
        (row.source, row.run_id): row.outcome
        for row in connection.execute(sa.select(runs.c.source, runs.c.run_id, runs.c.outcome).where(its))
    }
    polled = polls.of_runs(connection, [(each["source"], each["run_id"] or each["id"]) for each in found])
    for each in found:
        poll = polled.get((each["source"], each["run_id"] or each["id"]))
        each["due_at"], each["polls"] = (poll.due_at, poll.polls) if poll else (None, 0)
        each["reason"] = (poll and poll.reason) or each["reason"]
        each["webhook"] = bool(each.pop("callback_url"))
        each["labels"] = json.loads(each["labels"])
        each["request"] = None if each["request"] is None else json.loads(each["request"])
        each["status"] = outcomes.get((each["source"], each["run_id"]), "")
    return found
