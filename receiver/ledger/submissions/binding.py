"""Binding runs to the submissions that they came of, while a batch of events is recorded.

A submission has one run that its submit made. Runs that Skyvern itself started again for that one, with the same
callback URL, are bound as well: they have its labels, its caller's webhook and its budget, in whatever order their
events come.

Locks are taken in the order of events.py: runs first, sorted; then submissions, sorted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain import callback_url
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import RunKey
from receiver.domain.submission import SubmissionMove, SubmissionState, states_before
from receiver.ledger import dialect
from receiver.ledger.runs import run_value, update_run
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.records import Submission, change, from_row, named_by


class Wanted(NamedTuple):
    """A run whose submission is wanted. `token`: of the callback URL that its event came by, which is not signed; "".

    What its own body says, which is authentic: `named`, the token in the callback URL of the run; `retried_from` and
    `retried_by`, the runs that it is linked to; each may be "".
    """

    source: str
    run_id: str
    token: str = ""
    named: str = ""
    retried_from: str = ""
    retried_by: str = ""

    @classmethod
    def of(cls, each: ParsedEvent) -> Wanted:
        """Return what an event tells of whose its run is."""
        links = each.run.retried_from or "", each.run.retried_by or ""
        return cls(*each.key, each.event.submission_id, callback_url.token_of(each.run.data), *links)

    @property
    def linked(self) -> list[RunKey]:
        """The runs that it is linked to."""
        return [(self.source, each) for each in (self.retried_from, self.retried_by) if each]


def candidates(connection: sa.Connection, wanted: Collection[Wanted]) -> Sequence[Any]:
    """Lock and read the submissions that may be those of runs. See `bind`."""
    if not wanted:
        return ()
    given = {
        "b_ids": sorted({each.token for each in wanted} - {""}),
        "b_sources": sorted({each.source for each in wanted}),
        "b_run_ids": sorted({each.run_id for each in wanted}),
    }
    return connection.execute(_CANDIDATES, given).all()


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
    connection: sa.Connection,
    wanted: Iterable[Wanted],
    rows: Iterable[Any],
    now: float,
    named: Mapping[RunKey, str] = {},
) -> dict[RunKey, Submission]:
    """Bind runs to submissions, and return the submission of each run that has one. `rows`: of `candidates`; `named`:
    by run, the submission that its row, which is locked, names already.

    Call it between events.lock, for these runs and those that they are linked to, and events.record. A submission
    that knows the run's id is its own, with or without a token; a token binds only a submission of the same source that
    knows no run yet, or this one. What is bound for the first time is accepted, and the run gets the submission's id
    and labels. A further run of a submission is bound where it is linked to one that is, or says itself that
    it has the submission's callback URL.
    """
    asked = sorted(set(wanted))
    if not asked:
        return {}
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
    asked_for = [(each.source, each.run_id) for each in asked]
    # A run that was started again is bound by what one of its events says; others may say nothing of it.
    if lost := {key: named[key] for key in asked_for if key in named and key not in bound}:
        bound |= _of_names(connection, lost)
    result = {key: bound[key] for key in asked_for if key in bound}
    newly_named = [
        {"b_source": key[0], "b_run_id": key[1], "b_id": result[key].id, "b_labels": _labels(result[key]), "b_now": now}
        for key in sorted(result.keys() - named.keys())
    ]
    if newly_named:
        connection.execute(_NAME, newly_named)
    return result


def _labels(submission: Submission) -> str:
    return json.dumps(dict(submission.labels))


# A submission, by its first event; and the run that came of it.
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


def _link(connection: sa.Connection, asked: Iterable[Wanted]) -> None:
    """Record at the other end of each link what only one end says: whichever event tells of it."""
    links = {(each.source, each.retried_from, each.run_id) for each in asked if each.retried_from}
    links |= {(each.source, each.run_id, each.retried_by) for each in asked if each.retried_by}
    for source, first, second in sorted(links):
        for run_id, column, other in ((first, runs.c.retried_by, second), (second, runs.c.retried_from, first)):
            update_run(connection, source, run_id, column.is_(None), **{column.name: other})


def _bind_further(
    connection: sa.Connection,
    further: Iterable[Wanted],
    by_id: dict[str, Submission],
    bound: dict[RunKey, Submission],
    now: float,
) -> None:
    """Add to `bound` the runs that are started again ones of a submission's run."""
    for each in further:
        found = by_id.get(each.token)
        if found is not None and found.source == each.source and found.run_id:
            ends = (runs.c.retried_from, runs.c.retried_by)
            first = {found.run_id, *(run_value(connection, each.source, found.run_id, end) for end in ends)}
            if each.named != each.token and not first & {each.run_id, *(run_id for _, run_id in each.linked)}:
                continue
            bound[each.source, each.run_id] = found
            first_id = _first_run(connection, found, bound)
            if first_id != found.run_id:  # a later one came first, so that it was taken for the run of the submit
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
    """Return the id of the submission's run that Skyvern did not start for another of its runs."""
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


def _of_linked(connection: sa.Connection, each: Wanted) -> Submission | None:
    """Return the submission of a run that this one is linked to."""
    return next(filter(None, (named_by(connection, *key) for key in each.linked)), None)
