"""Send to a sink: one delivery, or a batch at a time, in the form that a sink is given."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from handlers import Delivery, Receipt, Sink
from handlers.contract import Refused
from receiver.config.destinations import RetryPolicy
from receiver.delivery import backoff
from receiver.domain.callback import CALLBACK
from receiver.domain.callback_url import mask_bytes
from receiver.domain.event import ERASED
from receiver.domain.run import parse
from receiver.domain.shape import completed, webhook_body
from receiver.ledger.deliveries.claimed import Claimed


@dataclass(slots=True, eq=False)
class SendTask:
    """What is sent at a time: one delivery, or a batch. `started`: by time.monotonic(); `seconds`: what it took."""

    claimed: Sequence[Claimed]
    started: float = 0.0
    seconds: float = 0.0
    answers: Sequence[Receipt | Exception] = field(default_factory=list)


def send(sink: Sink[Any], claimed: Sequence[Claimed], retry: RetryPolicy) -> Sequence[Receipt | Exception]:
    """Return the sink's answer for each claim: a receipt, or the error that it raised. `retry`: their budget."""
    whole = [each for each in claimed if each.body or not each.run_id]
    if len(whole) < len(claimed):  # some were replayed while their run was erased
        sent = iter(send(sink, whole, retry) if whole else ())
        return [next(sent) if each in whole else Refused(ERASED) for each in claimed]
    try:
        deliveries = [to_delivery(each, retry) for each in claimed]
        answers = sink.send_many(deliveries) if sink.batch_size > 1 else [sink.send(*deliveries)]
        if len(answers) != len(deliveries):
            raise RuntimeError(f"{len(answers)} answers to {len(deliveries)} deliveries")
    except Exception as error:  # noqa: BLE001 - the three kinds are distinguished at settlement
        return [error] * len(claimed)
    return answers


def to_delivery(each: Claimed, retry: RetryPolicy) -> Delivery:
    """Return the delivery that a sink is given for a claim. `retry`: its budget.

    No sink sees Runhook's callback URL, but the one that puts the caller's own in its place.
    """
    body, completion = each.body, each.completion.encode() if each.completion else b""
    if each.sink != CALLBACK:
        body, completion = mask_bytes(body), completion and mask_bytes(completion)
    payload = body
    if each.run is not None and body is each.body:
        run, data = each.run, each.run.data
    else:
        run = parse(body)
        data = run.data if run.problem else completed(run.data, json.loads(completion) if completion else None)
        if not (run.problem or run.left_out or each.via == "webhook"):
            payload = webhook_body(body, run.data, data)
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
        receipts=each.receipts,
        test=run.test,
        last_attempt=backoff.is_last(retry, each.spent, each.tried_at, time.time()),
        payload=payload,
    )
