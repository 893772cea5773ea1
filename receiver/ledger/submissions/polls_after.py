"""What the events of a batch mean for the polls of their submissions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from receiver.domain import deduplication, poll_schedule
from receiver.domain.deduplication import Facts
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import RunKey
from receiver.ledger.events import NO_RUN, KnownRun, NewEvent
from receiver.ledger.statements import BoundStatement
from receiver.ledger.submissions import polls
from receiver.ledger.submissions.records import Submission


def schedule_polls(
    batch: Sequence[ParsedEvent],
    known: Mapping[RunKey, KnownRun],
    histories: Mapping[RunKey, Sequence[Facts]],
    bound: Mapping[RunKey, Submission],
    now: float,
) -> list[BoundStatement]:
    """Return what ends the polling of runs that are final by then. One whose first final event is a cancel without
    output is polled once more, some time later: its output may come in a second webhook, which can be lost. An event
    that a poll brought is the result of that poll."""
    polled = {
        each.key
        for each in batch
        if each.event.via == "poll" and each.key in bound and each.event.submission_id == bound[each.key].id
    }
    over, once_more = [], []
    for key in bound:
        first = not any(each.final for each in known[key].history)
        if not deduplication.may_lack_output(histories[key]) or (key in polled and not first):
            over.append(key)
        elif first:
            once_more.append(key)
    later = now + poll_schedule.AFTER_CANCEL
    return [*polls.due_after_end(over, None, now), *polls.due_after_end(once_more, later, now)]


def first_ends(batch: Iterable[NewEvent], submitted: Mapping[RunKey, Submission], now: float) -> list[BoundStatement]:
    """Return the same for webhooks that are each the first event of its run. `submitted`: by run."""
    ends = {item.key: [item.facts] for item in batch if item.facts and item.run.final and item.key in submitted}
    return schedule_polls((), dict.fromkeys(ends, NO_RUN), ends, {key: submitted[key] for key in ends}, now)
