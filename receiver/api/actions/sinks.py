"""Actions on sinks: pause, resume, and a sample to test one."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pydantic import Field

from handlers.contract import Delivery, Receipt, Refused, SinkError, Unavailable
from receiver.api.actions import audited
from receiver.api.call_pool import place_in
from receiver.api.endpoint import Endpoint
from receiver.api.models import Result
from receiver.api.service import Actor, Service
from receiver.api.sinks import SinkParameters, SinkRow, get_sink, require_live_sink, require_sink
from receiver.config.models import Config
from receiver.domain.api_key import OPERATE
from receiver.domain.breaker import Lane
from receiver.domain.callback import CALLBACK
from receiver.domain.event import delivery_id, event_id
from receiver.domain.run import parse
from receiver.errors import Invalid
from receiver.ledger import Connection, audit
from receiver.ledger.database_clock import database_now
from receiver.ledger.deliveries import lanes
from receiver.runtime.process import error_location
from receiver.skyvern import members

log = logging.getLogger("runhook.api")

# What the audit calls the test of a sink.
TEST: Final = "sink.test"
# Tests that one process makes at once: a sink that hangs must not take all threads from who looks and acts.
_TESTS: Final = threading.BoundedSemaphore(2)
# Lanes of one sink that are probed at once when it goes on.
MOST_LANES: Final = 10_000


class Resumed(NamedTuple):
    """What a resume found. `paused`: whether it was; `shut`: the lanes whose breaker is open, and is probed now."""

    paused: bool
    shut: Sequence[Lane]


class ResumeResult(Result):
    """How a sink is after it was told to go on."""

    sink: SinkRow
    was_paused: bool
    probed: int = Field(description="Open breakers that are tried at once: one delivery closes each when it is taken.")


class SinkTestResult(Result):
    """What became of a sample. `outcome`: accepted, refused, unavailable or error."""

    outcome: str
    reason: str = Field(description="Why it was not accepted, else empty.")
    id: str = Field(description="Of the receipt.")
    keys: list[str] = Field(description="Of the receipt: what was written.")
    note: str = Field(description="Of the receipt.")


def pause(connection: Connection, actor: Actor, sink: str) -> None:
    """Pause a sink, with its line in the audit."""
    lanes.set_paused(connection, sink, True, database_now(connection))
    audited.note(connection, actor, "sink.pause", {"sink": sink}, 1)


def resume(connection: Connection, actor: Actor, sink: str) -> Resumed:
    """Let a sink go on, with its line in the audit. An open breaker is probed at once."""
    now = database_now(connection)
    mine = lanes.not_closed(connection, MOST_LANES, sink)
    paused, shut = any(lane.paused for lane in mine), [lane for lane in mine if lane.breaker != "closed"]
    if paused:
        lanes.set_paused(connection, sink, False, now)
    lanes.probe_at_once(connection, [lane.lane for lane in shut], now)
    audited.note(connection, actor, "sink.resume", {"sink": sink}, 1)
    return Resumed(paused, shut)


def send_sample(config: Config, default_base: str, name: str) -> Receipt:
    """Send a marked sample to a sink, now and from here. Raises SinkError, and Invalid for one that can't be tested.

    `default_base`: the base of Skyvern's API for sources that name none.
    """
    from handlers import registry
    from receiver.delivery.sink_services import SourceServices

    require_testable(config, name)
    chosen = config.sinks[name]
    sink = registry.build(name, chosen.type, chosen.options, SourceServices(config, default_base))
    try:
        return sink.send(_sample_delivery(config, name, time.time()))
    finally:
        sink.close()


def require_testable(config: Config, name: str) -> None:
    """Raise Invalid for a sink that is none, or can't be tested."""
    require_sink(config, name)
    if name == CALLBACK:
        raise Invalid(
            f"{name} can't be tested: it has no address of its own, for each delivery goes to the webhook_url that the "
            "run's caller gave; `runhook replay RUN --sink callback --force` sends a real one again"
        )


def _sample_delivery(config: Config, sink: str, now: float) -> Delivery:
    """Return a delivery that is marked as a test, of a made-up run."""
    source = next(iter(config.sources))
    body = _sample_body(now)
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


def pause_sink(service: Service, actor: Actor, wanted: SinkParameters) -> SinkRow:
    """Send nothing more to a sink; its deliveries wait."""
    require_live_sink(service, wanted.sink)
    service.ledger.write(lambda it: pause(it, actor, wanted.sink))
    return get_sink(service, actor, wanted)


def resume_sink(service: Service, actor: Actor, wanted: SinkParameters) -> ResumeResult:
    """Let a paused sink go on. If its breaker is open, it is probed at once."""
    require_live_sink(service, wanted.sink)
    found = service.ledger.write(lambda it: resume(it, actor, wanted.sink))
    return ResumeResult(sink=get_sink(service, actor, wanted), was_paused=found.paused, probed=len(found.shut))


def test_sink(service: Service, actor: Actor, wanted: SinkParameters) -> SinkTestResult:
    """Send one marked sample to a sink, now and from the receiver, and return its receipt or why there is none."""
    config, base = service.config, service.settings.skyvern_base_url
    require_testable(config, wanted.sink)
    with (
        place_in(_TESTS, "other sinks are being tested"),
        audited.audited(service.ledger, actor, TEST, {"sink": wanted.sink}) as told,
    ):
        try:
            receipt = send_sample(config, base, wanted.sink)
        except Exception as error:  # others than these are bugs, of a third party's sink perhaps
            kinds = ((Refused, "refused"), (Unavailable, "unavailable"))
            outcome = next((name for kind, name in kinds if isinstance(error, kind)), "error")
            reason = str(error) if isinstance(error, SinkError) else error_location(error)
            log.debug("api.sink_test sink=%s in full", wanted.sink, exc_info=True)
            told.outcome, told.detail = audit.FAILED, f"{outcome}: {reason}"
            return SinkTestResult(outcome=outcome, reason=reason, id="", keys=[], note="")
        told.count = 1
    return SinkTestResult(outcome="accepted", reason="", id=receipt.id, keys=list(receipt.keys), note=receipt.note)


PAUSE_SINK = Endpoint(
    "pause_sink", "POST", "/sinks/{sink}/pause", OPERATE, SinkParameters, SinkRow, pause_sink, all_sources=True
)
RESUME_SINK = Endpoint(
    "resume_sink", "POST", "/sinks/{sink}/resume", OPERATE, SinkParameters, ResumeResult, resume_sink, all_sources=True
)
TEST_SINK = Endpoint(
    "test_sink", "POST", "/sinks/{sink}/test", OPERATE, SinkParameters, SinkTestResult, test_sink, all_sources=True
)
ENDPOINTS = (PAUSE_SINK, RESUME_SINK, TEST_SINK)
