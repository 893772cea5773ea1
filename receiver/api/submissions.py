"""One submission, with its run."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.keys import KeyRow
from receiver.api.models import Result, Scoped
from receiver.api.names import none_such
from receiver.api.rows import RunRow, SubmissionRow
from receiver.api.service import Actor, Service
from receiver.api.timeline import TimelineEntry, submission_timeline
from receiver.domain.api_key import VIEW
from receiver.ledger import Connection, api_keys
from receiver.ledger.filters import Filter
from receiver.ledger.lists import runs, submissions


class SubmissionParameters(Scoped):
    """Which submission."""

    id: str = Field(max_length=100, description="Its id: the token in its callback URL.")


class SubmissionDetails(Result):
    """A submission, whose key it was, and its run."""

    submission: SubmissionRow
    key: KeyRow | None = Field(description="With which it was submitted; null when the key is unknown.")
    run: RunRow | None = Field(description="Null while no event has told of it.")
    timeline: list[TimelineEntry] = Field(description="What happened to the submission; what is to come stands last.")


def get_submission(service: Service, _actor: Actor, wanted: SubmissionParameters) -> SubmissionDetails:
    """Return one submission with the key that it was submitted with, and its run."""

    def read(connection: Connection) -> SubmissionDetails:
        row = submissions.one(connection, wanted.id, wanted.source)
        if row is None:
            raise none_such("submission", wanted.id)
        submission = SubmissionRow.model_validate(row)
        key = api_keys.one(connection, submission.key_id)
        of_run = Filter(source=submission.source, run_id=submission.run_id)
        found = runs.list_runs(connection, of_run, None, 1)[0] if submission.run_id else []
        return SubmissionDetails(
            submission=submission,
            key=None if key is None else KeyRow.of(key),
            run=RunRow.model_validate(found[0]) if found else None,
            timeline=submission_timeline(submission),
        )

    return service.ledger.read(read)


GET_SUBMISSION: Final = Endpoint(
    "get_submission", "GET", "/submissions/{id}", VIEW, SubmissionParameters, SubmissionDetails, get_submission
)
ENDPOINTS = (GET_SUBMISSION,)
