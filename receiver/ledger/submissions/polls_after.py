"""What the events of a batch mean for the polls of their submissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from receiver.domain import deduplication, poll_schedule
from receiver.domain.deduplication import Facts
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import RunKey
from receiver.ledger import runs
from receiver.ledger.events import KnownRun
from receiver.ledger.submissions import polls
from receiver.ledger.submissions.lifecycle import Submission


def schedule_polls(
    connection: sa.Connection,
    batch: Sequence[ParsedEvent],
    known: Mapping[RunKey, KnownRun],
    histories: Mapping[RunKey, Sequence[Facts]],
    bound: Mapping[RunKey, Submission],
    now: float,
) -> None:
    """End the polling of runs that are final. One whose first final event is a cancel without output is polled once
    more, some time later: its output may come in a second webhook, which can be lost. An event that a poll brought is
    the result of that poll."""
    polled = {
        each.key
        for each in batch
        if each.event.via == "poll" and each.key in bound and each.event.submission_id == bound[each.key].id
    }
    over, once_more = [], []
    for key in runs.final_runs(connection, bound):
        first = not any(each.final for each in known[key].history)
        if not deduplication.may_lack_output(histories[key]) or (key in polled and not first):
            over.append(key)
        elif first:
            once_more.append(key)
    polls.set_due(connection, over, None, now)
    polls.set_due(connection, once_more, now + poll_schedule.AFTER_CANCEL, now)
