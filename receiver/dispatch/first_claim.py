"""Claim new deliveries for sink runners of this process while they are recorded; the runners send them from memory.

A runner with room gets the first ones of each batch. The others are queued and claimed later. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from receiver.domain.callback_url import mask_bytes
from receiver.domain.event import delivery_id
from receiver.domain.history import NO_HISTORY, RunHistory
from receiver.domain.new_event import NewDelivery, NewEvent
from receiver.domain.parsed_event import completion_of_text
from receiver.domain.run import Run, RunKey, parse
from receiver.domain.shape import completed
from receiver.domain.time_limits import CLAIM, START_WITHIN
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.creation import ClaimAtOnce


def choose_claim(events: Sequence[NewEvent], room: Mapping[str, int], owner: str, now: float) -> ClaimAtOnce | None:
    """Return the claim with which deliveries of these events are to be recorded, or None.

    `room`: maximum number of deliveries to claim, by sink.
    """
    left = dict(room)
    ids = set()
    for item, new in _due(events):
        if left.get(new.sink, 0) > 0:
            left[new.sink] -= 1
            ids.add(delivery_id(item.event.id, new.sink))
    return ClaimAtOnce(owner, now + CLAIM, ids) if ids else None


def claims_of(
    events: Sequence[NewEvent], ids: Collection[str], runs: Mapping[RunKey, RunHistory], now: float
) -> dict[str, list[Claimed]]:
    """Return, by sink, those of the deliveries of these events that have been recorded as claimed, which are `ids`.

    `runs`: as loaded before.
    """
    claimed: defaultdict[str, list[Claimed]] = defaultdict(list)
    masked: dict[str, tuple[bytes, Run | None]] = {}  # by event, for all of its sinks
    for item, new in _due(events) if ids else ():
        key = delivery_id(item.event.id, new.sink)
        if key in ids:
            labels = runs.get(item.key, NO_HISTORY).labels
            if item.event.id not in masked:
                masked[item.event.id] = _masked(item)
            claimed[new.sink].append(_claimed(key, item, new, masked[item.event.id], labels, now))
    return claimed


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


def _masked(item: NewEvent) -> tuple[bytes, Run | None]:
    """Return the body and the run of an event without Runhook's callback URL.

    None for a run that was read in part, or came otherwise: it reads differently in the ledger, so each sink parses it.
    """
    text = item.completion_text().encode()
    body, completion = mask_bytes(item.body), mask_bytes(text)
    if item.event.via != "webhook" or item.run.problem or item.run.left_out:
        return body, None
    if body is item.body and completion is text:
        return body, item.run
    run = parse(body)
    return body, run.with_data(completed(run.data, completion_of_text(completion.decode())))


def _claimed(
    key: str,
    item: NewEvent,
    new: NewDelivery,
    masked: tuple[bytes, Run | None],
    labels: Mapping[str, str],
    now: float,
) -> Claimed:
    event, run = item.event, item.run
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
        body=masked[0],
        completion=item.completion_text(),
        due_at=now,
        run=masked[1],
        start_by=now + START_WITHIN,
    )
