"""Submissions whose results are to come, as the submit API records them: with their answer, which names the run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from receiver.domain.submission import SubmissionMove
from receiver.ledger import Connection, Ledger
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.ledger.submissions.records import NewSubmission
from tests.support.run_ids import run_id

AT_ONCE: Final = 200  # of a transaction
_REQUEST: Final = {
    "prompt": "Log in, open the invoices of this month, and return the number and the total of each.",
    "url": "https://shop.example/account/invoices",
    "max_steps": 25,
    "x-runhook-call": {"path": "/v1/run/tasks"},
}


def submission_id(number: int) -> str:
    """The token in the callback URL of the run with this number."""
    return f"sub_{number:032x}"


def submit(ledger: Ledger, numbers: Iterable[int]) -> None:
    """Record the submissions of the runs with these numbers, whose bodies `bench.pipeline.body` makes."""
    left = list(numbers)
    while left:
        some, left = left[:AT_ONCE], left[AT_ONCE:]
        ledger.write(lambda connection, some=some: _record(connection, some))  # type: ignore[misc]


def _record(connection: Connection, numbers: Iterable[int]) -> None:
    now = time.time()
    for number in numbers:
        new = NewSubmission(
            *(submission_id(number), "skyvern", "bench", "tasks", f"hash of {number}"),
            labels={"team": "billing"},
            request=_REQUEST,
        )
        lifecycle.begin(connection, new, now)
        run = run_id(number)
        accepted = SubmitOutcome(SubmissionMove.ACCEPT, run, "task_v1", 200, b"{}", due_at=now + 600)
        lifecycle.record_outcome(connection, new.id, accepted, now)
