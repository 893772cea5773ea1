"""Binding runs to the submissions that they came of, while a batch of events is recorded.

Locks are taken in the order of events.py: runs first, sorted; then submissions, sorted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.domain.submission import SubmissionMove, SubmissionState, states_before
from receiver.ledger import bulk
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.lifecycle import Submission, from_row


def bind(connection: sa.Connection, wanted: Iterable[tuple[str, str, str]], now: float) -> dict[RunKey, Submission]:
    """Bind runs to submissions, and return the submission of each run that has one.

    `wanted`: (source, run id, token of the callback URL or "").
    Call it between events.lock_runs and events.record. A submission that knows the run's id is its own, with or
    without a token; a token binds only a submission of the same source that knows no run yet, or this one. What is
    bound for the first time is accepted, and the run gets the submission's id and labels.
    """
    asked = sorted({(source, run_id, token) for source, run_id, token in wanted if run_id})
    tokens = sorted({token for _, _, token in asked if token})
    run_ids = sorted({run_id for _, run_id, _ in asked})
    if not asked:
        return {}
    rows = connection.execute(
        sa.select(submissions)
        .where(
            sa.or_(
                bulk.among(connection, submissions.c.id, tokens),
                sa.and_(
                    bulk.among(connection, submissions.c.source, sorted({source for source, _, _ in asked})),
                    bulk.among(connection, submissions.c.run_id, run_ids),
                ),
            )
        )
        .order_by(submissions.c.id)
        .with_for_update()
    ).all()
    by_id = {row.id: from_row(row) for row in rows}
    bound: dict[RunKey, Submission] = {(each.source, each.run_id): each for each in by_id.values() if each.run_id}
    newly: list[dict[str, object]] = []
    for source, run_id, token in asked:
        found = by_id.get(token)
        if found is None or found.source != source or found.run_id or (source, run_id) in bound:
            continue
        if found.state not in states_before(SubmissionMove.ACCEPT):
            continue
        by_id[token] = bound[source, run_id] = replace(
            found, state=SubmissionState.ACCEPTED, run_id=run_id, reason="", updated_at=now
        )
        newly.append({"its_id": token, "its_run": run_id})
    if newly:
        connection.execute(
            sa.update(submissions)
            .where(submissions.c.id == sa.bindparam("its_id"))
            .values(state=SubmissionState.ACCEPTED, run_id=sa.bindparam("its_run"), reason="", updated_at=now),
            newly,
        )
    result = {(source, run_id): bound[source, run_id] for source, run_id, _ in asked if (source, run_id) in bound}
    if result:
        connection.execute(
            sa.update(runs)
            .where(
                runs.c.source == sa.bindparam("its_source"),
                runs.c.run_id == sa.bindparam("its_run"),
                runs.c.submission_id == "",
            )
            .values(submission_id=sa.bindparam("its_id"), labels=sa.bindparam("its_labels"), updated_at=now),
            [
                {
                    "its_source": key[0],
                    "its_run": key[1],
                    "its_id": each.id,
                    "its_labels": json.dumps(dict(each.labels)),
                }
                for key, each in sorted(result.items(), key=lambda item: item[0])
            ],
        )
    return result
