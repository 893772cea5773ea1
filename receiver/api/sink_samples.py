"""Test a sink: send it one marked sample, now and from here."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime
from typing import Final

from pydantic import Field

from handlers.contract import Delivery, Receipt, Refused, SinkError, Unavailable
from receiver.api.audit import audited
from receiver.api.call_pool import place_in
from receiver.api.endpoint import call
from receiver.api.models import Result
from receiver.api.service import Actor, Service
from receiver.api.sinks import SinkParameters, require_sink
from receiver.domain import members
from receiver.domain.api_key import OPERATE
from receiver.domain.callback import CALLBACK
from receiver.domain.event import delivery_id, event_id
from receiver.domain.run import parse
from receiver.errors import Invalid, error_location
from receiver.ledger.access import audit

# What the audit calls the test of a sink.
TEST: Final = "sink.test"
# Tests that one process runs at once: a sink that hangs must not take all threads.
_TESTS: Final = threading.BoundedSemaphore(2)

log = logging.getLogger("runhook.api")


class SinkTestResult(Result):
    """The result of a sample. `outcome`: accepted, refused, unavailable or error."""

    outcome: str
    reason: str = Field(description="Why it was not accepted; else empty.")
    id: str = Field(description="Of the receipt.")
    keys: list[str] = Field(description="Of the receipt: what was written.")
    note: str = Field(description="Of the receipt.")


def test_sink(service: Service, actor: Actor, parameters: SinkParameters) -> SinkTestResult:
    """Send one marked sample to a sink, now and from the receiver. Return its receipt, or why it was not accepted."""
    require_sink(service.config, parameters.sink)
    if parameters.sink == CALLBACK:
        raise Invalid(
            f"{CALLBACK} can't be tested: it has no address of its own, each delivery goes to the webhook_url that the "
            "run's caller gave; `runhook replay RUN --sink callback --force` sends a real one again"
        )
    with (
        place_in(_TESTS, "other sinks are being tested"),
        audited(service.ledger, actor, TEST, {"sink": parameters.sink}) as done,
    ):
        try:
            receipt = _send_sample(service, parameters.sink)
        except Exception as error:  # anything but a SinkError is a bug, perhaps of a third party's sink
            kinds = ((Refused, "refused"), (Unavailable, "unavailable"))
            outcome = next((name for kind, name in kinds if isinstance(error, kind)), "error")
            reason = str(error) if isinstance(error, SinkError) else error_location(error)
            log.debug("api.sink_test sink=%s in full", parameters.sink, exc_info=True)
            done.outcome, done.detail = audit.FAILED, f"{outcome}: {reason}"
            return SinkTestResult(outcome=outcome, reason=reason, id="", keys=[], note="")
        done.count = 1
    return SinkTestResult(outcome="accepted", reason="", id=receipt.id, keys=list(receipt.keys), note=receipt.note)


def _send_sample(service: Service, name: str) -> Receipt:
    from handlers import registry
    from receiver.delivery.sink_services import SourceServices

    config = service.config
    chosen = config.sinks[name]
    services = SourceServices(config, service.settings.skyvern_base_url)
    sink = registry.build(name, chosen.type, chosen.options, services)
    try:
        return sink.send(_sample_delivery(next(iter(config.sources)), name, time.time()))
    finally:
        sink.close()


def _sample_delivery(source: str, sink: str, now: float) -> Delivery:
    """Return a delivery that is marked as a test, of a made-up run."""
    body = _sample_body(now)
    run, event = parse(body), event_id(source, body)
    return Delivery(
        key=delivery_id(event, sink),
        event_id=event,
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


def _sample_body(now: float) -> bytes:
    """Return the webhook of a made-up task that completed at `now`, with an invoice as its output."""

    def ago(seconds: float) -> str:
        return datetime.fromtimestamp(now - seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")

    run_id = f"tsk_test_{int(now)}"
    invoice = {
        "invoice_number": "INV-2041",
        "supplier": "Söhne & Kůň GmbH",
        "currency": "EUR",
        "lines": [{"description": "Support, days", "quantity": 6, "unit_price": 179.5, "amount": 1077}],
        "net": 1077,
        "vat": 215.4,
        "total": 1292.4,
        "paid": False,
        "purchase_order": None,
    }
    body = dict.fromkeys(members.WEBHOOK[members.TASK]) | {
        "task_id": run_id,
        "run_id": run_id,
        "run_type": "task_v1",
        "status": "completed",
        "created_at": ago(64),
        "queued_at": ago(63),
        "started_at": ago(62),
        "finished_at": ago(0.02),
        "modified_at": ago(0.01),
        "output": invoice,
        "extracted_information": invoice,
        "errors": [],
        "recording_archived": False,
        "downloaded_files": [],
        "max_steps_per_run": 10,
        "step_count": 4,
        "app_url": f"https://app.skyvern.com/tasks/{run_id}",
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


TEST_SINK: Final = call("POST", "/sinks/{sink}/test", OPERATE, test_sink, all_sources=True)
