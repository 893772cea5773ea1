"""What a sink is handed: a delivery made of a claim, or one that is marked as a test. Reads no ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from handlers import Delivery
from receiver.domain.event import delivery_id, event_id
from receiver.domain.run import parse
from receiver.ledger.deliveries.claims import Claimed
from receiver.skyvern import samples

Receipts = Mapping[str, dict[str, object] | None]


def of_claim(each: Claimed, receipts: Receipts) -> Delivery:
    """The delivery that a sink is given for a claim. `receipts`: by sink, of those that it waited for."""
    run = parse(each.body)
    return Delivery(
        key=each.id,
        event_id=each.event_id,
        sink=each.sink,
        attempt=each.number,
        source=each.source,
        run_id=each.run_id,
        run_type=run.run_type,
        status=each.outcome,
        received_at=datetime.fromtimestamp(each.received_at, UTC),
        body=each.body,
        run=run.data,
        via=each.via,
        route=each.route,
        problem=run.problem,  # of the body; the event's own may be that a route could not be evaluated
        labels=each.labels,
        receipts=receipts,
    )


def sample_delivery(sink: str, source: str, now: float) -> Delivery:
    """A delivery that is marked as a test, of a run that never was."""
    body = samples.build("completed", now=now, run_id=f"tsk_test_{int(now)}")
    run = parse(body)
    return Delivery(
        key=delivery_id(event_id(source, body), sink),
        event_id=event_id(source, body),
        sink=sink,
        attempt=1,
        source=source,
        run_id=run.run_id,
        run_type=run.run_type,
        status=run.outcome,
        received_at=datetime.fromtimestamp(now, UTC),
        body=body,
        run=run.data,
        route="test",
        test=True,
    )
