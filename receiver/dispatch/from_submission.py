"""What an event has of the submission that its run came of, whichever of the two was known first."""

from __future__ import annotations

from receiver.domain import attention, callback
from receiver.domain.parsed_event import ParsedEvent, complete
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, storable
from receiver.domain.shape import completion_of
from receiver.ledger.events import NewDelivery
from receiver.ledger.submissions.records import Submission


def with_request(parsed: ParsedEvent, submission: Submission, redactor: Redactor) -> ParsedEvent:
    """Return an event with the members of its submission's request that it lacks; itself when there are none."""
    if submission.request is None:
        return parsed
    request, older = storable(submission.request), submission.call.startswith("legacy")
    found = completion_of(parsed.run.data, request=request, older=older)
    return complete(parsed, redactor, found) if found else parsed


def callers_webhook(submission: Submission | None, disposition: str, run: Run) -> NewDelivery | None:
    """Return the delivery to the webhook of a submission's caller, if it is told of this event: as Skyvern would, of
    each attempt's end too, but not of a run that is paused or waits."""
    if submission is None or not submission.webhook_url:
        return None
    if disposition not in ("new", "interim") or run.status in attention.ACTIVE:
        return None
    return NewDelivery(callback.CALLBACK, callback.ROUTE, callback.lane_of(submission.webhook_url, submission.key_id))
