"""Submissions as values: a new one, and one that is read from its row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from receiver.domain.submission import SubmissionState
from receiver.ledger.schema import runs, submissions


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """A submission before its request goes out. `call`: tasks | agents | workflows | legacy."""

    id: str
    source: str
    key_id: str
    call: str
    request_hash: str
    title: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    webhook_url: str = ""  # the caller's
    idempotency_key: str | None = None
    request: Mapping[str, Any] | None = field(default=None, repr=False)  # what was asked for, after redaction


@dataclass(frozen=True, slots=True)
class Submission:
    """One row. `webhook_url`, `answer`: the caller's; the latter redacted. `due_at`: of the next poll, or None.

    `request`: the members of its request, redacted; None when they were not kept.
    """

    id: str
    source: str
    key_id: str
    call: str
    state: SubmissionState
    run_id: str
    run_type: str
    title: str | None
    labels: Mapping[str, str]
    webhook_url: str = field(repr=False)
    idempotency_key: str | None = field(repr=False)
    request_hash: str
    request: Mapping[str, Any] | None = field(repr=False)
    answer_status: int | None
    answer: bytes | None = field(repr=False)
    due_at: float | None
    polls: int
    reason: str
    created_at: float
    answered_at: float | None
    updated_at: float


def from_row(row: Any) -> Submission:
    """Return the submission of a whole row of the table."""
    fields: dict[str, Any] = row._asdict()
    fields["webhook_url"] = fields.pop("callback_url")
    fields["state"] = SubmissionState(fields["state"])
    fields["labels"] = json.loads(fields["labels"])
    fields["request"] = None if fields["request"] is None else json.loads(fields["request"])
    fields["answer"] = None if fields["answer"] is None else bytes(fields["answer"])
    return Submission(**fields)


def one(connection: sa.Connection, submission_id: str) -> Submission | None:
    """Return the submission with this token, or None."""
    row = connection.execute(sa.select(submissions).where(submissions.c.id == submission_id)).first()
    return None if row is None else from_row(row)


def of_run(connection: sa.Connection, source: str, run_id: str) -> Submission | None:
    """Return the submission that the run came of, or None. It may be a run that Skyvern started for the first one."""
    if not run_id:
        return None
    row = connection.execute(
        sa.select(submissions)
        .where(submissions.c.source == source, submissions.c.run_id == run_id)
        .order_by(submissions.c.created_at)
    ).first()
    row = (
        row
        or connection.execute(
            sa.select(submissions)
            .join(runs, runs.c.submission_id == submissions.c.id)
            .where(runs.c.source == source, runs.c.run_id == run_id, submissions.c.source == source)
        ).first()
    )
    return None if row is None else from_row(row)
