"""Record submissions: the runs that Runhook requested from Skyvern. Sends nothing, and does not decide when to poll.

Locks rows in the order of recordings: runs first, sorted; then submissions, sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import IllegalMove
from receiver.domain.run import RunKey
from receiver.domain.submission import (
    OPEN,
    NewSubmission,
    Submission,
    SubmissionMove,
    SubmissionState,
    after,
    states_after,
    states_before,
)
from receiver.ledger import polls
from receiver.ledger.access import api_keys
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.database.errors import LedgerUnavailable, Outdated
from receiver.ledger.recording.load import lock
from receiver.ledger.runs import update_run
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions.records import change, erased, from_row, get

# Seconds after which a pending submission is overdue: longer than any submit call takes, so its process has died.
PENDING_LIMIT = 180.0
# Seconds after which its run is searched for anyway: a run with its token is proof.
PENDING_POLL = 15.0
# Seconds for which an identical request without Idempotency-Key joins one whose outcome is still unknown.
ATTACH_WITHIN = 600.0
# Stands for a missing response. Unsuccessful statuses are at least 300.
NO_ANSWER = 1000
# Why a submission was withdrawn: its caller had disconnected before it was recorded.
NEVER_SENT = "the ledger was too slow; it was never sent"


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """How a submit ended. `release`: free the Idempotency-Key, because the request started no run."""

    move: SubmissionMove
    run_id: str = ""
    run_type: str = ""
    status: int | None = None
    body: bytes | None = field(default=None, repr=False)
    reason: str = ""
    due_at: float | None = None
    release: bool = False


def begin(connection: sa.Connection, new: NewSubmission, now: float) -> tuple[Submission, bool]:
    """Record the submission. Returns it and True, also if an earlier try of this transaction has recorded it; or an
    earlier submission for the same request, and False.

    With an Idempotency-Key, the earlier one has the same key, whatever its request: compare `request_hash`. An API key
    and those that it was rotated from or to count as one caller. A refused submission, which certainly started no run,
    is replaced. Without an Idempotency-Key, the earlier one is a recent identical request whose caller has not learned
    of a run: a client that retries after an error must not start a second run.
    """
    it = submissions.c
    if new.idempotency_key is None:
        dialect.serialize(connection, f"{new.key_id}\0{new.request_hash}")
        # Its run is known, but its caller got an error, or no response yet.
        unanswered = sa.func.coalesce(it.answer_status, NO_ANSWER) >= 300
        is_open = sa.or_(it.state.in_(sorted(OPEN)), sa.and_(it.state == SubmissionState.ACCEPTED, unanswered))
        same = sa.select(submissions).where(it.key_id == new.key_id, it.request_hash == new.request_hash, is_open)
        young = same.where(it.created_at > now - ATTACH_WITHIN).order_by(it.created_at.desc()).limit(1)
        if (found := connection.execute(young).first()) is not None:
            return from_row(found), found.id == new.id
    same_names = ("id", "source", "key_id", "call", "title", "prompt", "idempotency_key", "request_hash")
    row = {name: getattr(new, name) for name in same_names} | {
        "state": SubmissionState.PENDING,
        "labels": dialect.json_text(dict(new.labels)),
        "callback_url": new.webhook_url,
        "request": None if new.request is None else dialect.json_text(new.request),
        "created_at": now,
        "updated_at": now,
    }
    insert = many_rows.insert_statement(connection, submissions).values(row).on_conflict_do_nothing()
    key_ids = [] if new.idempotency_key is None else api_keys.rotations(connection, new.key_id)
    if len(key_ids) > 1:
        dialect.serialize(connection, f"{min(key_ids)}\0{new.idempotency_key}")
    earlier = sa.select(submissions).where(it.key_id.in_(key_ids), it.idempotency_key == new.idempotency_key)
    for _ in range(5):  # a key may be freed or taken between the two statements
        there = connection.execute(earlier).first() if key_ids else None
        if there is None:
            made = connection.execute(insert.returning(*submissions.c)).first()
            if made is not None:
                polls.plan(connection, (new.source, new.id), now + PENDING_POLL, now)
                return from_row(made), True
            continue
        if there.state != SubmissionState.REJECTED or there.request_hash == new.request_hash:
            return from_row(there), there.id == new.id
        change(connection, there.id, it.state == SubmissionState.REJECTED, idempotency_key=None, updated_at=now)
    raise LedgerUnavailable("the Idempotency-Key is used by too many concurrent requests")


def withdraw(connection: sa.Connection, submission_id: str, now: float) -> None:
    """Withdraw a submission whose request will never be sent, so that the same request creates a new one."""
    rejected = after(SubmissionState.PENDING, SubmissionMove.REJECT)
    gone = {"state": rejected, "idempotency_key": None, "reason": NEVER_SENT, "updated_at": now}
    there = get(connection, submission_id)
    if there and change(connection, submission_id, submissions.c.state == SubmissionState.PENDING, **gone):
        polls.stop(connection, [(there.source, submission_id)])


# Called when a run with events is bound: they were routed without its labels, and without its caller's webhook. Returns
# the sinks that have due deliveries now.
WhenLate = Callable[[sa.Connection, RunKey, Submission, float], Collection[str]]


class OutcomeRecorded(NamedTuple):
    """A submission after its outcome was recorded.

    `sinks`: those with due deliveries because its run was bound late. Wake them after the commit.
    """

    submission: Submission
    sinks: Collection[str] = ()


def record_outcome(
    connection: sa.Connection, submission_id: str, answer: SubmitOutcome, now: float, when_late: WhenLate | None = None
) -> OutcomeRecorded:
    """Record how a submit ended.

    The API's response outranks the token of a callback URL, which is not signed: a run that was bound by the token, but
    is not the one in the response, loses the submission and its labels. A submission that a webhook has accepted stays
    accepted, even if the response was lost. Raises Outdated.
    """
    before = get(connection, submission_id)
    if before is None:
        raise KeyError(submission_id)
    known = _lock_runs(connection, before.source, {answer.run_id, before.run_id}, now)
    there, others = _lock(connection, before.source, submission_id, answer)
    if answer.move is SubmissionMove.ACCEPT and there.run_id not in {"", *known}:
        raise Outdated("a submission got a run")  # which must be locked before it
    state = SubmissionState(there.state)
    values: dict[str, object] = {"updated_at": now, "answered_at": now}
    if answer.status is not None:
        values |= {"answer_status": answer.status, "answer": answer.body}
    if answer.move is SubmissionMove.ACCEPT:
        if there.run_id not in ("", answer.run_id):
            # A run that Skyvern started as a retry stays with the submission of the original run.
            alone = sa.func.coalesce(runs.c.retried_from, "") == ""
            _set_owner(connection, before.source, there.run_id, now, runs.c.submission_id == submission_id, alone)
        for other in others:  # its webhooks had their tokens
            _take_run(connection, before.source, answer.run_id, other, now)
        is_erased = known[answer.run_id].erased_at is not None
        labels = "{}" if is_erased else there.labels
        _set_owner(connection, before.source, answer.run_id, now, owner=submission_id, labels=labels)
        values |= {"state": SubmissionState.ACCEPTED, "run_id": answer.run_id, "reason": ""}
        values |= {"run_type": answer.run_type or there.run_type}
        values |= erased(answer.run_id) if is_erased else {}
        _plan_poll(connection, before, known[answer.run_id], answer.due_at, now)
        if state is not SubmissionState.ACCEPTED:
            after(state, SubmissionMove.ACCEPT)
    elif state is not SubmissionState.ACCEPTED:
        if state not in states_after(answer.move):  # else an earlier try or the clock has moved it
            values["state"] = after(state, answer.move)
        values |= {"reason": answer.reason}
        _plan_poll(connection, before, None, answer.due_at, now)
    if answer.release:
        values["idempotency_key"] = None
    changed = sa.update(submissions).where(submissions.c.id == submission_id).values(**values)
    found = from_row(connection.execute(changed.returning(*submissions.c)).one())
    if when_late and answer.move is SubmissionMove.ACCEPT and _is_late(known[answer.run_id]):
        return OutcomeRecorded(found, when_late(connection, (found.source, found.run_id), found, now))
    return OutcomeRecorded(found)


def set_answer(connection: sa.Connection, submission_id: str, status: int, body: bytes | None, now: float) -> None:
    """Replace the response of an accepted submission, unless its run is erased. `body`: None if its caller got none
    after all."""
    accepted = submissions.c.state == SubmissionState.ACCEPTED
    same = runs.c.source == submissions.c.source, runs.c.run_id == submissions.c.run_id
    is_erased = sa.select(runs.c.run_id).where(*same, runs.c.erased_at.is_not(None)).exists()
    change(connection, submission_id, accepted, ~is_erased, answer_status=status, answer=body, updated_at=now)


def _lock(
    connection: sa.Connection, source: str, submission_id: str, answer: SubmitOutcome
) -> tuple[sa.Row[Any], list[str]]:
    """Lock a submission, and the other submissions with the run of its response, in the order of their ids.

    Returns its row, and the ids of the others. These cannot change, because the run is locked.
    """
    wanted = submissions.c.id == submission_id
    if answer.move is SubmissionMove.ACCEPT:
        wanted |= sa.and_(
            submissions.c.source == source,
            submissions.c.run_id == answer.run_id,
            submissions.c.state.in_(states_before(SubmissionMove.UNBIND)),
        )
    query = sa.select(submissions).where(wanted).order_by(submissions.c.id).with_for_update()
    rows = {row.id: row for row in connection.execute(query)}
    return rows.pop(submission_id), list(rows)


def _take_run(connection: sa.Connection, source: str, run_id: str, submission_id: str, now: float) -> None:
    """Take the run of a submission, because it is another's, and search for its own."""
    lost = {"state": SubmissionState.UNKNOWN, "run_id": "", "reason": "its run was another's"}
    change(connection, submission_id, **lost, updated_at=now)
    _set_owner(connection, source, run_id, now, runs.c.submission_id == submission_id)
    polls.plan(connection, (source, submission_id), now, now)


def _set_owner(
    connection: sa.Connection,
    source: str,
    run_id: str,
    now: float,
    *conditions: sa.ColumnElement[bool],
    owner: str = "",
    labels: str = "{}",
) -> None:
    """Bind a run without a submission to `owner`; without `owner`, unbind the run if it meets the conditions."""
    conditions = (runs.c.submission_id == "",) if owner else conditions
    update_run(connection, source, run_id, *conditions, submission_id=owner, labels=labels, updated_at=now)


def _plan_poll(connection: sa.Connection, submission: Submission, run: Any, due_at: float | None, now: float) -> None:
    """Poll for the result of a submission at `due_at`, if one is expected. `run`: its locked run, if it is known."""
    if run or due_at is None:
        polls.stop(connection, [(submission.source, submission.id)])
    if due_at is not None and not (run and (run.final or run.erased_at is not None)):
        polls.plan(connection, (submission.source, run.run_id if run else submission.id), due_at, now)


def resolve(
    connection: sa.Connection,
    submission_id: str,
    move: SubmissionMove,
    now: float,
    *,
    run_id: str = "",
    run_type: str = "",
    due_at: float | None = None,
    reason: str = "",
    release: bool = False,
    when_late: WhenLate | None = None,
) -> Collection[str] | None:
    """Move a submission whose response was lost: ACCEPT with its run, MISS or GIVE_UP.

    `release`: free its Idempotency-Key, because it certainly started no run. Returns the sinks to wake after the
    commit, as record_outcome does. If the submission has moved meanwhile, writes nothing; and returns None unless it
    has this run. Raises IllegalMove for REJECT, or ACCEPT without a run, which need a response.
    """
    if move is SubmissionMove.REJECT or (move is SubmissionMove.ACCEPT) != bool(run_id):
        raise IllegalMove(f"a submission can't be resolved by {move} with run {run_id!r}")
    there = get(connection, submission_id)
    if there is None or there.state not in states_before(move) or there.run_id not in ("", run_id):
        return () if there is not None and run_id and there.run_id == run_id else None
    known = _lock_runs(connection, there.source, {run_id}, now)
    values: dict[str, Any] = {"state": after(there.state, move), "run_id": run_id, "reason": reason, "updated_at": now}
    values |= {"run_type": run_type or there.run_type}
    values |= {"idempotency_key": None} if release else {}
    is_erased = bool(run_id) and known[run_id].erased_at is not None
    values |= erased(run_id) if is_erased else {}
    if not change(connection, submission_id, submissions.c.state.in_(states_before(move)), **values):
        return None
    _plan_poll(connection, there, known.get(run_id), due_at, now)
    if run_id:
        labels = "{}" if is_erased else dialect.json_text(there.labels)
        _set_owner(connection, there.source, run_id, now, owner=submission_id, labels=labels)
        if when_late and _is_late(known[run_id]):
            return when_late(connection, (there.source, run_id), there, now)
    return ()


def _lock_runs(connection: sa.Connection, source: str, run_ids: Collection[str], now: float) -> dict[str, Any]:
    """Lock these runs until the transaction ends, and insert a row for unknown ones. Returns the rows by run id.

    So a recording of their first event has to wait until this submission is committed, and then finds it.
    """
    keys = [(source, run_id) for run_id in run_ids if run_id]
    return {row.run_id: row for row in lock(connection, keys, now, needed=keys).values()}


def _is_late(run: Any) -> bool:
    """Whether a locked run has events that were recorded before it had a submission."""
    return run.events > 0 and not run.submission_id
