"""Runs that failed, for groups of them: incidents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from receiver.domain.run import RESTARTABLE
from receiver.ledger.lists.filters import Filter, of_runs, unsuccessful
from receiver.ledger.schema import runs
from receiver.ledger.totals import Span, timeless


class FailedRun(NamedTuple):
    """A run that failed. `at`: when it changed last."""

    source: str
    run_id: str
    workflow_id: str | None
    title: str | None
    outcome: str
    reason: str | None
    at: float


def failed_runs(
    connection: sa.Connection, filters: Filter, span: Span, most: int = 5000
) -> tuple[Sequence[FailedRun], float]:
    """Return the runs that failed, were terminated or timed out, the newest first, and from when on all of them are
    there. Erased runs are left out: without their reasons they would be an incident of their own. `span` replaces the
    times of `filters`. `most`: maximum runs of each status that are read."""
    it = runs.c
    rest = of_runs(timeless(filters))
    found: list[FailedRun] = []
    edge = span.since
    for outcome in sorted(RESTARTABLE):
        query = (
            sa.select(it.source, it.run_id, it.workflow_id, it.title, it.outcome, it.failure_reason, it.updated_at)
            .where(it.outcome == outcome, *unsuccessful(runs), it.updated_at >= span.since, it.updated_at < span.until)
            .where(it.erased_at.is_(None))
            .order_by(it.updated_at.desc())
            .limit(most)
        )
        # The bound is on the rows that are read: a rare filter must not read on and on.
        newest = query.subquery()
        same = [newest.c.source == it.source, newest.c.run_id == it.run_id]
        rows = connection.execute(
            sa.select(newest).select_from(newest.join(runs, sa.and_(*same))).where(*rest) if rest else query
        ).all()
        found += [FailedRun(*row) for row in rows]
        last = connection.execute(
            sa.select(sa.func.min(newest.c.updated_at)).select_from(newest).having(sa.func.count() == most)
        ).scalar()
        edge = max(edge, edge if last is None else float(last))
    kept = [each for each in found if each.at >= edge]
    return sorted(kept, key=lambda each: -each.at), edge
