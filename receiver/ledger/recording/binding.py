"""Bind runs to their submissions while a batch of events is recorded.

A submission has one run that its request started. Skyvern's retries of that run, with the same callback URL, are bound
too: they get its labels, its caller's webhook and its budget, in whatever order their events come.

The runs are locked, and those that a submission or a link is written to have a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain import callback_url
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import RunKey
from receiver.domain.submission import Submission, SubmissionMove, SubmissionState, states_before
from receiver.ledger.database import dialect
from receiver.ledger.database.dialect import json_text
from receiver.ledger.runs import run_value, update_run
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.records import change, from_row, named_by


class Reported(NamedTuple):
    """What an event reports about the submission of its run. `token`: from the callback URL of the event, which is not
    signed, or "".

    From its body, which is authentic: `named`, the token in the callback URL of the run; `retried_from` and
    `retried_by`, the runs that it is linked to; each may be "".
    """

    source: str
    run_id: str
    token: str = ""
    named: str = ""
    retried_from: str = ""
    retried_by: str = ""

    @classmethod
    def of(cls, each: ParsedEvent) -> Reported:
        """Return what an event reports."""
        links = each.run.retried_from or "", each.run.retried_by or ""
        return cls(*each.key, each.event.submission_id, callback_url.token_of(each.run.data), *links)

    @property
    def key(self) -> RunKey:
        """The run that the event is about."""
        return self.source, self.run_id

    @property
    def linked(self) -> list[RunKey]:
        """The runs that this run is linked to."""
        return [(self.source, each) for each in (self.retried_from, self.retried_by) if each]


_OF_GIVEN_RUNS: Final = sa.and_(
    dialect.among_given(submissions.c.source, "b_sources"), dialect.among_given(submissions.c.run_id, "b_run_ids")
)
_CANDIDATES: Final = (
    sa.select(submissions)
    .where(sa.or_(dialect.among_given(submissions.c.id, "b_ids"), _OF_GIVEN_RUNS))
    .order_by(submissions.c.id)
    .with_for_update()
)


def bind(
    connection: sa.Connection, reported: Collection[Reported], now: float, named: Mapping[RunKey, str]
) -> dict[RunKey, Submission]:
    """Bind runs to submissions, and return the submission of each run that has one. Locks the possible submissions.

    `named`: by run, the submission that its row already names.

    A submission with the run's id owns the run, with or without a token. A token binds only a submission of the same
    source that has no run yet, or this one. A submission that is bound for the first time becomes accepted, and the run
    gets its id and labels. A retry is bound if it is linked to a bound run, or its body has the submission's callback
    URL.
    """
    if not reported:
        return {}
    asked = sorted(set(reported))
    given = {
        "b_ids": sorted({each.token for each in asked} - {""}),
        "b_sources": sorted({each.source for each in asked}),
        "b_run_ids": sorted({each.run_id for each in asked}),
    }
    rows = connection.execute(_CANDIDATES, given).all()
    _link(connection, asked)
    by_id = {row.id: from_row(row) for row in rows}
    bound: dict[RunKey, Submission] = {(each.source, each.run_id): each for each in by_id.values() if each.run_id}
    newly: list[dict[str, Any]] = []
    for source, run_id, token, *_ in asked:
        found = by_id.get(token)
        if found is None or found.source != source or found.run_id or (source, run_id) in bound:
            continue
        if found.state not in states_before(SubmissionMove.ACCEPT):
            continue
        by_id[token] = bound[source, run_id] = replace(
            found, state=SubmissionState.ACCEPTED, run_id=run_id, reason="", updated_at=now
        )
        newly.append({"b_id": token, "b_run_id": run_id, "b_now": now})
    if newly:
        connection.execute(_ACCEPT, newly)
    further = [each for each in asked if each[:2] not in bound and (each.token or each.linked)]
    if further:
        _bind_further(connection, further, by_id, bound, now)
    asked_for = [each.key for each in asked]
    # One event of a retry may bind it, while its other events lack the link.
    if lost := {key: named[key] for key in asked_for if key in named and key not in bound}:
        bound |= _of_names(connection, lost)
    result = {key: bound[key] for key in asked_for if key in bound}
    newly_named = [
        {"b_source": source, "b_run_id": run_id, "b_id": its.id, "b_labels": json_text(its.labels), "b_now": now}
        for (source, run_id), its in sorted(result.items())
        if (source, run_id) not in named
    ]
    if newly_named:
        connection.execute(_NAME, newly_named)
    return result


# Updates a submission with its first event, and a run with its submission.
_ACCEPT: Final = (
    sa.update(submissions)
    .where(submissions.c.id == sa.bindparam("b_id"))
    .values(
        state=SubmissionState.ACCEPTED, run_id=sa.bindparam("b_run_id"), reason="", updated_at=sa.bindparam("b_now")
    )
)
_NAME: Final = (
    sa.update(runs)
    .where(
        runs.c.source == sa.bindparam("b_source"),
        runs.c.run_id == sa.bindparam("b_run_id"),
        runs.c.submission_id == "",
    )
    .values(submission_id=sa.bindparam("b_id"), labels=sa.bindparam("b_labels"), updated_at=sa.bindparam("b_now"))
)


def _link(connection: sa.Connection, asked: Iterable[Reported]) -> None:
    """Record each link between runs at both ends, even if only one run's event reports it."""
    links = {(each.source, each.retried_from, each.run_id) for each in asked if each.retried_from}
    links |= {(each.source, each.run_id, each.retried_by) for each in asked if each.retried_by}
    for source, first, second in sorted(links):
        for run_id, column, other in ((first, runs.c.retried_by, second), (second, runs.c.retried_from, first)):
            update_run(connection, source, run_id, column.is_(None), **{column.name: other})


def _bind_further(
    connection: sa.Connection,
    further: Iterable[Reported],
    by_id: dict[str, Submission],
    bound: dict[RunKey, Submission],
    now: float,
) -> None:
    """Add Skyvern's retries of a submission's run to `bound`."""
    for each in further:
        found = by_id.get(each.token)
        if found is not None and found.source == each.source and found.run_id:
            ends = (runs.c.retried_from, runs.c.retried_by)
            first = {found.run_id, *(run_value(connection, each.source, found.run_id, end) for end in ends)}
            if each.named != each.token and not first & {each.run_id, *(run_id for _, run_id in each.linked)}:
                continue
            bound[each.source, each.run_id] = found
            first_id = _first_run(connection, found, bound)
            if first_id != found.run_id:  # a retry's event came first, and was bound as the original run
                by_id[found.id] = bound[each.source, each.run_id] = replace(found, run_id=first_id)
                change(connection, found.id, run_id=first_id, updated_at=now)
        elif found is None and (submission := _of_linked(connection, each)):
            bound[each.source, each.run_id] = submission


def _of_names(connection: sa.Connection, named: Mapping[RunKey, str]) -> dict[RunKey, Submission]:
    """Return the submissions with these ids, by run."""
    those = dialect.among(submissions.c.id, sorted(set(named.values())))
    found = {row.id: from_row(row) for row in connection.execute(sa.select(submissions).where(those))}
    return {key: found[submission_id] for key, submission_id in named.items() if submission_id in found}


def _first_run(connection: sa.Connection, submission: Submission, bound: Mapping[RunKey, Submission]) -> str:
    """Return the id of the submission's original run, which is not a retry of another of its runs."""
    source, run_id, seen = submission.source, submission.run_id, {submission.run_id}
    while True:
        other = run_value(connection, source, run_id, runs.c.retried_from)
        if not other or other in seen:
            return run_id
        owner = bound.get((source, other))
        owner_id = owner.id if owner else run_value(connection, source, other, runs.c.submission_id)
        if owner_id != submission.id:
            return run_id
        run_id = other
        seen.add(other)


def _of_linked(connection: sa.Connection, each: Reported) -> Submission | None:
    """Return the submission of a run that this one is linked to."""
    return next(filter(None, (named_by(connection, *key) for key in each.linked)), None)
