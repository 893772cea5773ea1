"""What is sent at a time, and what a sink is given of it. Sends nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import overload

from handlers import Delivery, Receipt
from receiver.config.destinations import RetryPolicy
from receiver.delivery import backoff
from receiver.domain.callback import CALLBACK
from receiver.domain.callback_url import mask_bytes
from receiver.domain.run import parse
from receiver.domain.shape import completed, webhook_body
from receiver.ledger.deliveries.claimed import Claimed

# By sink.
Receipts = Mapping[str, dict[str, object] | None]


@dataclass(slots=True, eq=False)
class SendTask:
    """What is sent at a time: one delivery, or a batch of one claim."""

    claim_number: int
    claimed: Sequence[Claimed]
    receipts: dict[str, Receipts]
    started: float = 0.0  # monotonic; 0.0 while it is queued
    answers: list[Receipt | Exception] = field(default_factory=list)
    seconds: float = 0.0  # that the send took
    ended: bool = False
    # The queued task that has started in its slot.
    next_task: SendTask | None = None

    @property
    def accepted(self) -> bool:
        """Whether the sink accepted all of it."""
        for answer in self.answers:  # noqa: SIM110 - a generator costs three times as much, and this is asked often
            if not isinstance(answer, Receipt):
                return False
        return True


class LazyDeliveries(Sequence[Delivery]):
    """The deliveries of a batch, each made of its claim when it is taken, and not kept.

    So one parsed run at a time is in memory, where the next one finds it still in the caches of the core: with all of a
    batch at once it takes a sixth longer to send.
    """

    def __init__(self, make: Callable[[Claimed], Delivery], claimed: Sequence[Claimed]) -> None:
        self._make = make
        self._claimed = claimed

    def __len__(self) -> int:
        return len(self._claimed)

    def __iter__(self) -> Iterator[Delivery]:
        return map(self._make, self._claimed)

    @overload
    def __getitem__(self, place: int) -> Delivery: ...

    @overload
    def __getitem__(self, place: slice) -> LazyDeliveries: ...

    def __getitem__(self, place: int | slice) -> Delivery | LazyDeliveries:
        """Return one of them, or some."""
        if isinstance(place, slice):
            return LazyDeliveries(self._make, self._claimed[place])
        return self._make(self._claimed[place])


def to_delivery(each: Claimed, receipts: Receipts, retry: RetryPolicy | None = None) -> Delivery:
    """Return the delivery that a sink is given for a claim. `receipts`: by sink, of those that it waited for.
    `retry`: its budget, where that is known.

    No sink sees our callback URL, but the one that puts the caller's own in its place.
    """
    body, completion = each.body, each.completion.encode() if each.completion else b""
    if each.sink != CALLBACK:
        body, completion = mask_bytes(body), completion and mask_bytes(completion)
    run = parse(body, briefly=True)
    data = run.data if run.problem else completed(run.data, json.loads(completion) if completion else None)
    return Delivery(
        key=each.id,
        event_id=each.event_id,
        sink=each.sink,
        attempt=each.attempt_number,
        source=each.source,
        run_id=each.run_id,
        run_type=run.run_type,
        status=each.outcome,
        received_at=datetime.fromtimestamp(each.received_at, UTC),
        body=body,
        run=data,
        via=each.via,
        route=each.route,
        problem=run.problem,  # of the body; the event's own may be that a route could not be evaluated
        labels=each.labels,
        receipts=receipts,
        test=run.test,
        other_events=each.run_events > 1,
        last_attempt=retry is not None and backoff.is_last(retry, each.spent, each.tried_at, time.time()),
        payload=body if run.problem or run.left_out or each.via == "webhook" else webhook_body(body, run.data, data),
    )
