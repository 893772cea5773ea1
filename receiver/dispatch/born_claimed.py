"""Record new deliveries as claimed by a sink runner of the same process, which sends them from memory.

A runner with room gets the first ones of each batch. The others are queued and claimed later.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from receiver.delivery.runner import SinkRunner
from receiver.domain.event import delivery_id
from receiver.domain.run import RunKey
from receiver.domain.time_limits import CLAIM, START_WITHIN
from receiver.ledger import Connection
from receiver.ledger.deliveries import lanes
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.events import NO_RUN, KnownRun, NewDelivery, NewEvent
from receiver.ledger.submissions.records import Submission

Runners = Mapping[str, SinkRunner]  # by sink


def choose_claim(
    connection: Connection, runners: Runners, events: Sequence[NewEvent], now: float
) -> ClaimAtOnce | None:
    """Return the claim with which deliveries of these events are to be recorded: as many as their sinks have room for,
    but none to a sink that is paused or whose breaker is not closed."""
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for item, new in _due(events):
        if new.sink in runners:
            wanted[new.sink].append(delivery_id(item.event.id, new.sink))
    room = {sink: places for sink in wanted if (places := runners[sink].room())}
    shut = lanes.shut_among(connection, room.keys())
    ids = {key for sink in room.keys() - shut for key in islice(wanted[sink], room[sink])}
    return ClaimAtOnce(runners[next(iter(room))].owner, now + CLAIM, ids) if ids else None


def claims_of(
    events: Sequence[NewEvent],
    ids: Collection[str],
    known: Mapping[RunKey, KnownRun],
    bound: Mapping[RunKey, Submission],
    now: float,
) -> dict[str, list[Claimed]]:
    """Return, by sink, those of the deliveries of these events that have been recorded as claimed, which are `ids`.

    `known`, `bound`: what was known of their runs, and the submissions that these were bound to.
    """
    found: defaultdict[str, list[Claimed]] = defaultdict(list)
    for item, new in _due(events):
        key = delivery_id(item.event.id, new.sink)
        if key in ids:
            run = known.get(item.key, NO_RUN)
            submission = None if run.submission_id else bound.get(item.key)
            labels = submission.labels if submission else run.labels
            found[new.sink].append(_claimed(key, item, new, labels, now))
    return found


def sinks_due(events: Sequence[NewEvent], claimed: Mapping[str, Collection[Claimed]]) -> set[str]:
    """Return the sinks that have something due of these events which no runner has claimed."""
    due = Counter(new.sink for item in events for new in item.deliveries if not new.after)
    return set(due - Counter({sink: len(claims) for sink, claims in claimed.items()}))


def _due(events: Sequence[NewEvent]) -> Iterator[tuple[NewEvent, NewDelivery]]:
    """Yield the deliveries that wait for nothing, of sinks that have one lane."""
    for item in events:
        for new in item.deliveries:
            if not new.after and new.lane in ("", new.sink):
                yield item, new


def _claimed(key: str, item: NewEvent, new: NewDelivery, labels: Mapping[str, str], now: float) -> Claimed:
    event, run = item.event, item.run
    # What was read in part, or came otherwise, reads differently in the ledger: the sink's process parses it again.
    whole = event.via == "webhook" and not (run.problem or run.left_out)
    return Claimed(
        id=key,
        event_id=event.id,
        sink=new.sink,
        lane=new.sink,
        route=new.route,
        attempt_number=1,
        spent=0,
        probe=False,
        source=event.source,
        run_id=run.run_id,
        outcome=run.outcome,
        via=event.via,
        problem=item.problem,
        received_at=event.received_at,
        labels=labels,
        after=(),
        body=item.body,
        completion=item.completion_text(),
        due_at=now,
        run=run if whole else None,
        start_by=now + START_WITHIN,
    )
