"""Submissions and overdue results: the lists, and one submission with its run."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.keys import KeyRow
from receiver.api.listing import ListEndpoint
from receiver.api.models import MAX_VALUES, FilterParameters, Moment, Result, Scoped
from receiver.api.names import none_such
from receiver.api.rows import RunRow, SubmissionRow
from receiver.api.service import Actor, Service
from receiver.api.timeline import TimelineEntry, submission_timeline
from receiver.domain.api_key import VIEW
from receiver.domain.submission import SubmissionState
from receiver.ledger import Connection
from receiver.ledger.access import api_keys
from receiver.ledger.lists import missing, runs, submissions
from receiver.ledger.lists.filters import Filter


class SubmissionsParameters(FilterParameters):
    """Which submissions. Times are those of creation."""

    state: tuple[SubmissionState, ...] = Field((), max_length=MAX_VALUES, description="Filter by state.")


class SubmissionParameters(Scoped):
    """Which submission."""

    id: str = Field(max_length=100, description="Its id: the token in its callback URL.")


class SubmissionDetails(Result):
    """A submission, whose key it was, and its run."""

    submission: SubmissionRow
    key: KeyRow | None = Field(description="With which it was submitted; null when the key is unknown.")
    run: RunRow | None = Field(description="Null until an event reports it.")
    timeline: list[TimelineEntry] = Field(description="What happened to the submission; what is to come stands last.")


def get_submission(service: Service, _actor: Actor, parameters: SubmissionParameters) -> SubmissionDetails:
    """Return one submission with the key that it was submitted with, and its run."""

    def read(connection: Connection) -> SubmissionDetails:
        row = submissions.get(connection, parameters.id, parameters.source)
        if row is None:
            raise none_such("submission", parameters.id)
        submission = SubmissionRow.model_validate(row)
        key = api_keys.get(connection, submission.key_id)
        of_run = Filter(source=submission.source, run_id=submission.run_id)
        found = runs.list_runs(connection, of_run, None, 1)[0] if submission.run_id else []
        return SubmissionDetails(
            submission=submission,
            key=None if key is None else KeyRow.of(key),
            run=RunRow.model_validate(found[0]) if found else None,
            timeline=submission_timeline(submission),
        )

    return service.ledger.read(read)


class MissingRow(Result):
    """A result that is overdue: of a submission, or of a run that was not submitted here."""

    kind: str = Field(description="submission or run.")
    source: str
    run_id: str
    submission_id: str
    call: str
    state: str
    run_type: str
    title: str | None
    prompt: str | None = Field(description="The first line of its prompt.")
    labels: dict[str, str]
    known_since: Moment = Field(description="When it was submitted, or first seen.")
    ended_at: Moment | None = Field(description="When Skyvern first showed its end, which no webhook has brought.")
    due_at: Moment = Field(description="When Skyvern is asked next.")
    polls: int = Field(description="How often Skyvern was asked without a result.")
    reason: str


class MissingParameters(FilterParameters):
    """Which overdue results."""


GET_SUBMISSION: Final = call("GET", "/submissions/{id}", VIEW, get_submission)
LIST_MISSING: Final = ListEndpoint(
    MissingRow,
    MissingParameters,
    missing.list_missing,
    (float, str, str),
    "List overdue results, in the order of their next poll.",
)
LIST_SUBMISSIONS: Final = ListEndpoint(
    SubmissionRow,
    SubmissionsParameters,
    submissions.list_submissions,
    (float, str),
    "List submitted runs, newest first, without responses and callers' webhooks.",
)
