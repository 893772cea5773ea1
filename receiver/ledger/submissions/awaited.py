"""Submissions whose run is known and has no event yet: the first one is then recorded without a look at more.

Nothing is locked. What is recorded by it says which submission the run must still have: see first_events.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa

from handlers.support.resubmit_chain import CHAIN
from receiver.domain.run import RunKey
from receiver.ledger import bulk
from receiver.ledger.schema import runs, submissions
from receiver.ledger.statements import BoundStatement, BuiltStatement, StatementForm
from receiver.ledger.submissions.records import Submission, from_row


def reading(tokens: Collection[str]) -> BoundStatement:
    """Return what reads those of the submissions with these ids whose run has no event yet. See `by_run`."""
    return _reading.with_values(b_ids=sorted(tokens))


def by_run(rows: Collection[Any]) -> dict[RunKey, Submission]:
    """Return them by run, without those whose caller takes a further look: see visibility.py. `rows`: of `reading`."""
    found = map(from_row, rows)
    return {(each.source, each.run_id): each for each in found if not (each.webhook_url and CHAIN in each.labels)}


def _build(form: StatementForm) -> sa.Select[Any]:
    it = submissions.c
    of_run = sa.and_(runs.c.source == it.source, runs.c.run_id == it.run_id, runs.c.submission_id == it.id)
    query = sa.select(submissions).join(runs, of_run)
    return query.where(bulk.among_given(form, it.id, "b_ids"), runs.c.events == 0)


_reading: Final = BuiltStatement(_build)
