"""Read submissions, and decide for their webhooks which key signs them, and which keys may see their address.

The address may contain a token, or a user and password. So only its caller sees it, though all keys of a source see the
run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from handlers.support.resubmit_chain import CHAIN
from receiver.domain.api_key import RESUBMIT
from receiver.domain.run import RunKey
from receiver.domain.submission import OPEN, Submission, SubmissionState
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database import dialect
from receiver.ledger.schema import polls, runs, submissions


def from_row(row: Any) -> Submission:
    """Return the submission of a complete row of the table."""
    fields: dict[str, Any] = row._asdict()
    fields["webhook_url"] = fields.pop("callback_url")
    fields["state"] = SubmissionState(fields["state"])
    fields["labels"] = json.loads(fields["labels"])
    fields["request"] = None if fields["request"] is None else json.loads(fields["request"])
    fields["answer"] = None if fields["answer"] is None else bytes(fields["answer"])
    return Submission(**fields)


def change(connection: sa.Connection, submission_id: str, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
    """Update columns of one submission, if it meets the conditions. Returns whether it did."""
    this = sa.update(submissions).where(submissions.c.id == submission_id, *conditions)
    return connection.execute(this.values(**values)).rowcount == 1


def erased(run_id: str) -> dict[str, Any]:
    """Return the values of an erased submission. Its answer names the run, so that a repeated submit gets it without
    a call to Skyvern. `run_id`: "" if it has no run; its answer stays an error then."""
    answer = {"run_id": run_id} if run_id else {"detail": "the content of this submission was erased"}
    gone = {"request": None, "title": None, "prompt": None, "labels": "{}"}
    return {**gone, "answer": json.dumps(answer).encode(), **({"answer_status": 200} if run_id else {})}


def get(connection: sa.Connection, submission_id: str) -> Submission | None:
    """Return the submission with this token, or None."""
    row = connection.execute(sa.select(submissions).where(submissions.c.id == submission_id)).first()
    return None if row is None else from_row(row)


def open_among(connection: sa.Connection, source: str, submission_ids: Sequence[str]) -> dict[str, Submission]:
    """Return the submissions with these ids whose run is not known yet, by id."""
    its = sa.and_(submissions.c.source == source, submissions.c.state.in_(sorted(OPEN)))
    rows = connection.execute(sa.select(submissions).where(its, dialect.among(submissions.c.id, submission_ids)))
    return {row.id: from_row(row) for row in rows}


def unknown(connection: sa.Connection, source: str, limit: int) -> list[Submission]:
    """Return submissions whose response was lost, the newest first, as Skyvern lists its runs."""
    it = submissions.c
    lost = sa.select(submissions).where(it.source == source, it.state == SubmissionState.UNKNOWN)
    searched = lost.join(polls, sa.and_(polls.c.run_id == it.id, polls.c.source == it.source))
    return [from_row(row) for row in connection.execute(searched.order_by(it.created_at.desc()).limit(limit))]


class Owner(NamedTuple):
    """The submission of a run. `created_at`: seconds since the epoch."""

    id: str
    call: str
    created_at: float


def owners(connection: sa.Connection, source: str, run_ids: Collection[str]) -> dict[str, Owner]:
    """Return the submissions of these runs by run id, without runs that have none."""
    query = sa.select(submissions.c.run_id, submissions.c.id, submissions.c.call, submissions.c.created_at).where(
        dialect.of_runs(submissions, ((source, each) for each in run_ids))
    )
    return {row.run_id: Owner(row.id, row.call, row.created_at) for row in connection.execute(query)}


def of_run(connection: sa.Connection, source: str, run_id: str) -> Submission | None:
    """Return the submission of a run or of the run that it is a retry of, or None."""
    if not run_id:
        return None
    its = sa.select(submissions).where(submissions.c.source == source)
    own = its.where(submissions.c.run_id == run_id).order_by(submissions.c.created_at)
    row = connection.execute(own).first()
    return named_by(connection, source, run_id) if row is None else from_row(row)


def named_by(connection: sa.Connection, source: str, run_id: str) -> Submission | None:
    """Return the submission that the row of a run names, or None."""
    query = sa.select(submissions).join(runs, runs.c.submission_id == submissions.c.id)
    query = query.where(runs.c.source == source, runs.c.run_id == run_id, submissions.c.source == source)
    row = connection.execute(query).first()
    return None if row is None else from_row(row)


def caller_of(connection: sa.Connection, submission: Submission) -> Key | None:
    """Return the key of the caller that expects the submission's webhook; None if the key no longer exists.

    A run that was resubmitted for another caller belongs to that caller, which must be able to verify the webhook. This
    requires a key with the scope `resubmit`, and the same address as in the first submission.
    """
    key = api_keys.get(connection, submission.key_id)
    if key and RESUBMIT in key.scopes and (first := submission.labels.get(CHAIN)):
        origin = of_run(connection, submission.source, first)
        if origin and origin.webhook_url == submission.webhook_url:
            return api_keys.get(connection, origin.key_id)
    return key


def for_callers(connection: sa.Connection, bound: Mapping[RunKey, Submission]) -> dict[RunKey, Submission]:
    """Return the submissions, each with the key of the caller that it was submitted for."""
    found = dict(bound)
    for key, submission in bound.items():
        if submission.webhook_url and CHAIN in submission.labels and (caller := caller_of(connection, submission)):
            found[key] = replace(submission, key_id=caller.id)
    return found


def may_see(connection: sa.Connection, submission: Submission, key: Key) -> bool:
    """Whether `key` may see the address: it gave it, it was given for it, or it may resubmit for others."""
    if RESUBMIT in key.scopes or submission.key_id == key.id:
        return True
    caller = caller_of(connection, submission) if CHAIN in submission.labels else None
    return caller is not None and caller.id == key.id


def webhook_of(connection: sa.Connection, run: RunKey, key: Key) -> tuple[Submission | None, bool]:
    """Return the submission of the run, and whether `key` may see its webhook."""
    submission = of_run(connection, *run)
    return submission, submission is not None and may_see(connection, submission, key)


def addresses(connection: sa.Connection, source: str, submission_ids: Sequence[str], key: Key) -> dict[str, str]:
    """Return the webhooks that `key` may see, by submission id."""
    query = sa.select(submissions.c.id, submissions.c.key_id, submissions.c.callback_url).where(
        submissions.c.source == source,
        submissions.c.callback_url != "",
        dialect.among(submissions.c.id, submission_ids),
    )
    found = {}
    for row in connection.execute(query).all():
        if row.key_id != key.id:
            submission = get(connection, row.id)
            if submission is None or not may_see(connection, submission, key):
                continue
        found[row.id] = row.callback_url
    return found
