"""Sinks: breaker, lag and pause; pause, resume and test one, move the deliveries of one that left the config."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import Field

from handlers.contract import Delivery, Receipt, Refused, SinkError, Unavailable
from receiver.api.audit import audited, note
from receiver.api.call_pool import place_in
from receiver.api.endpoint import call
from receiver.api.models import Moment, Page, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.domain import callback
from receiver.domain.api_key import OPERATE, VIEW
from receiver.domain.breaker import Lane
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.domain.event import delivery_id, event_id
from receiver.domain.run import parse
from receiver.errors import Invalid, NotFound
from receiver.ledger import Connection, audit, names, stats
from receiver.ledger.database_clock import database_now
from receiver.ledger.deliveries import lanes, orphans
from receiver.runtime.process import error_location
from receiver.skyvern import members

# The type that lists show for the sink of callers' webhooks.
CALLBACK_TYPE: Final = "callers' webhooks"
# Maximum origins with an open breaker that are shown.
MOST_ORIGINS: Final = 200
# What the audit calls the test of a sink.
TEST: Final = "sink.test"
# Tests that one process runs at once: a sink that hangs must not take all threads.
_TESTS: Final = threading.BoundedSemaphore(2)
# Maximum lanes of one sink that are probed at once when it resumes.
MOST_LANES: Final = 10_000
# Seconds after which a move returns where the next call continues.
TIME: Final = 5.0
# What `after` of a move begins with: deliveries are moved first, then what waits for them.
_DELIVERIES, _LINKS = "d", "l"

log = logging.getLogger("runhook.api")


class OriginRow(Result):
    """An origin of callers' webhooks whose breaker is not closed."""

    origin: str
    key: str = Field(description="The id of the API key whose webhooks these are.")
    breaker: str
    until: Moment | None = Field(description="No probe before.")
    reason: str


class OriginsRow(Result):
    """The origins that callers' webhooks go to."""

    shut: list[OriginRow]


class SinkRow(Result):
    """A sink. For a caller that may see one source only, what concerns all sources is null or empty."""

    name: str
    type: str
    paused: bool
    paused_at: Moment | None
    breaker: str = Field(description="closed, open or probing.")
    opened_at: Moment | None = Field(description="Since when it is not closed.")
    probe_at: Moment | None = Field(description="When the next probe is due.")
    reason: str = Field(description="Why it is open.")
    deliveries: dict[str, int] | None = Field(
        description=f"Deliveries by state, without delivered and cancelled ones, up to {stats.COUNT_LIMIT} of each."
    )
    oldest_due_at: Moment | None = Field(None, description="Since when its oldest delivery is overdue.")
    lag: float | None = Field(None, description="Seconds for which its oldest delivery is overdue.")
    orphaned: bool = Field(description="It is not in the config, but still has pending deliveries.")
    origins: OriginsRow | None = Field(None, description="Of the callers' webhooks.")


class SinkParameters(Scoped):
    """Which sink."""

    sink: str = Field(max_length=200, description="The sink's name.")


class ResumeResult(Result):
    """A sink after it was resumed."""

    sink: SinkRow
    was_paused: bool
    probed: int = Field(description="Open breakers that are probed at once; one accepted delivery closes each.")


class SinkTestResult(Result):
    """The result of a sample. `outcome`: accepted, refused, unavailable or error."""

    outcome: str
    reason: str = Field(description="Why it was not accepted; else empty.")
    id: str = Field(description="Of the receipt.")
    keys: list[str] = Field(description="Of the receipt: what was written.")
    note: str = Field(description="Of the receipt.")


class MoveParameters(SinkParameters):
    """Which sink's deliveries go to which other sink. `sink`: one that left the config."""

    into: str = Field(max_length=200, description="The sink that gets its deliveries.")
    delivered: bool = Field(
        False, description="Also what `sink` has delivered: `into` is the same sink, and does not get it again."
    )
    undo: bool = Field(False, description="Give back what `into` got from `sink` and has not delivered.")
    dry_run: bool = Field(False, description="Change nothing: return the number of deliveries as `count`.")
    after: str = Field("", max_length=300, description="Cursor: `next` from the previous call.")


class MoveResult(Result):
    """What a call has moved."""

    count: int
    left: int = Field(description="Deliveries of events that the other sink already has a delivery of.")
    next: str | None = Field(description="Cursor: give it as `after` to continue; null at the end.")


def list_sinks(service: Service, _actor: Actor, wanted: Scoped) -> Page[SinkRow]:
    """List the sinks of the config, and removed ones that still have pending deliveries."""
    return Page(items=service.ledger.read(lambda it: _rows(it, service.config, wanted.source)))


def get_sink(service: Service, actor: Actor, wanted: SinkParameters) -> SinkRow:
    """Return one sink, with its breaker, its lag and the counts of its deliveries."""
    for row in list_sinks(service, actor, wanted).items:
        if row.name == wanted.sink:
            return row
    raise NotFound(f"sink {wanted.sink}: not found")


def _rows(connection: Connection, config: Config, source: str) -> list[SinkRow]:
    """Return the rows of all sinks. `source`: the only one that the caller may see; "" for all."""
    types = {name: sink.type for name, sink in config.sinks.items()}
    types |= {name: CALLBACK_TYPE for name in config.destinations if name not in types}
    if source:
        known = lanes.named(connection, types)
        bare = {"reason": "", "deliveries": None, "orphaned": False}
        return [SinkRow(name=name, type=kind, **_state(known.get(name)) | bare) for name, kind in types.items()]
    now, counted = database_now(connection), stats.counts(connection)
    known = {lane.lane: lane for lane in lanes.not_closed(connection)}
    due, removed = stats.oldest_due(connection, now), orphans.orphaned(counted, types)
    rows: list[SinkRow] = []
    for name in (*types, *removed):
        state = _state(None if name in removed else known.get(name))
        if name in removed:
            state["reason"] = f"runhook sink move {name} NAME, or runhook cancel --sink {name}"
        counts = {state: count for (sink, state), count in counted.items() if sink == name}
        rows.append(
            SinkRow(
                name=name,
                type=types.get(name, ""),
                **state,
                deliveries=counts,
                oldest_due_at=due.get(name),
                lag=round(max(0.0, now - due.get(name, now)), 3),
                orphaned=name in removed,
                origins=_origins(known.values()) if name == CALLBACK else None,
            )
        )
    return rows


def _state(lane: Lane | None) -> dict[str, Any]:
    """Return what a row shows of a sink's own lane. The reason of a failure is outdated once the breaker is closed."""
    lane = lane or Lane("", "")
    shut = lane.breaker != "closed"
    return {
        "paused": lane.paused,
        "paused_at": lane.paused_at or None,
        "breaker": lane.breaker,
        "opened_at": (lane.opened_at or None) if shut else None,
        "probe_at": lane.until if shut else None,
        "reason": lane.reason if shut else "",
    }


def _origins(known: Iterable[Lane]) -> OriginsRow:
    shut = [lane for lane in known if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    return OriginsRow(
        shut=[
            OriginRow(
                origin=callback.origin_in(lane.lane),
                key=callback.key_in(lane.lane),
                breaker=lane.breaker,
                until=lane.until or None,
                reason=lane.reason,
            )
            for lane in sorted(shut, key=lambda lane: lane.lane)[:MOST_ORIGINS]
        ]
    )


def require_sink(config: Config, name: str) -> None:
    """Raise Invalid when the config has no sink `name`."""
    if name in config.destinations:
        return
    if name == CALLBACK:
        raise Invalid(f"{name} sends the webhooks of those who submit runs here; no source has an api_key to do so")
    raise Invalid(f"no sink is called {name}; the config has {', '.join(config.destinations) or 'none'}")


def require_live_sink(service: Service, name: str) -> None:
    """Raise Invalid when the config has no sink `name`; for one that left it, with the commands that help."""
    removed = name not in service.config.destinations and name != CALLBACK
    if removed and service.ledger.read(lambda it: names.has_sink(it, name)):
        raise Invalid(
            f"{name}: it is no longer in the config, so its deliveries are not sent; `runhook sink move {name} NAME` "
            f"gives them to another sink, `runhook cancel --sink {name}` cancels pending ones"
        )
    require_sink(service.config, name)


def pause_sink(service: Service, actor: Actor, wanted: SinkParameters) -> SinkRow:
    """Send nothing more to a sink; its deliveries wait."""
    require_live_sink(service, wanted.sink)

    def pause(connection: Connection) -> None:
        lanes.set_paused(connection, wanted.sink, True, database_now(connection))
        note(connection, actor, "sink.pause", {"sink": wanted.sink}, 1)

    service.ledger.write(pause)
    return get_sink(service, actor, wanted)


def resume_sink(service: Service, actor: Actor, wanted: SinkParameters) -> ResumeResult:
    """Resume a paused sink. Its open breakers are probed at once."""
    require_live_sink(service, wanted.sink)

    def resume(connection: Connection) -> tuple[bool, int]:
        now = database_now(connection)
        mine = lanes.not_closed(connection, MOST_LANES, wanted.sink)
        paused, shut = any(lane.paused for lane in mine), [lane.lane for lane in mine if lane.breaker != "closed"]
        if paused:
            lanes.set_paused(connection, wanted.sink, False, now)
        lanes.probe_at_once(connection, shut, now)
        note(connection, actor, "sink.resume", {"sink": wanted.sink}, 1)
        return paused, len(shut)

    paused, probed = service.ledger.write(resume)
    return ResumeResult(sink=get_sink(service, actor, wanted), was_paused=paused, probed=probed)


def test_sink(service: Service, actor: Actor, wanted: SinkParameters) -> SinkTestResult:
    """Send one marked sample to a sink, now and from the receiver. Return its receipt, or why it was not accepted."""
    config, base = service.config, service.settings.skyvern_base_url
    require_testable(config, wanted.sink)
    with (
        place_in(_TESTS, "other sinks are being tested"),
        audited(service.ledger, actor, TEST, {"sink": wanted.sink}) as done,
    ):
        try:
            receipt = send_sample(config, base, wanted.sink)
        except Exception as error:  # anything but a SinkError is a bug, perhaps of a third party's sink
            kinds = ((Refused, "refused"), (Unavailable, "unavailable"))
            outcome = next((name for kind, name in kinds if isinstance(error, kind)), "error")
            reason = str(error) if isinstance(error, SinkError) else error_location(error)
            log.debug("api.sink_test sink=%s in full", wanted.sink, exc_info=True)
            done.outcome, done.detail = audit.FAILED, f"{outcome}: {reason}"
            return SinkTestResult(outcome=outcome, reason=reason, id="", keys=[], note="")
        done.count = 1
    return SinkTestResult(outcome="accepted", reason="", id=receipt.id, keys=list(receipt.keys), note=receipt.note)


def require_testable(config: Config, name: str) -> None:
    """Raise Invalid for a sink that is not in the config, or can't be tested."""
    require_sink(config, name)
    if name == CALLBACK:
        raise Invalid(
            f"{name} can't be tested: it has no address of its own, each delivery goes to the webhook_url that the "
            "run's caller gave; `runhook replay RUN --sink callback --force` sends a real one again"
        )


def send_sample(config: Config, default_base: str, name: str) -> Receipt:
    """Send a marked sample to a sink, now and from here. Raises SinkError, and Invalid for one that can't be tested.

    `default_base`: the base URL of Skyvern's API for sources that name none.
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


def _sample_delivery(config: Config, sink: str, now: float) -> Delivery:
    """Return a delivery that is marked as a test, of a made-up run."""
    source = next(iter(config.sources))
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


def move_sink(service: Service, actor: Actor, wanted: MoveParameters) -> MoveResult:
    """Give the deliveries of a sink that left the config to another one, under the same idempotency keys.

    Pending ones are due at once; dead and cancelled ones stay so. Call it again with `next` until that is null.
    """
    _check_move(service.config, wanted)
    giver, taker = (wanted.into, wanted.sink) if wanted.undo else (wanted.sink, wanted.into)
    if not wanted.after:
        kept = {DeliveryState.SENDING, *(() if wanted.delivered else (DeliveryState.DELIVERED,))}
        states = [state for state in DeliveryState if state not in kept]
        total = service.ledger.read(lambda connection: stats.count_of(connection, giver, states))
        if not total:
            raise Invalid(f"{giver} has no such deliveries, so there is nothing to move")
        if wanted.dry_run:
            return MoveResult(count=total, left=0, next=None)
    chosen = {"sink": giver, "into": taker, "delivered": wanted.delivered, "undo": wanted.undo}
    with audited(service.ledger, actor, "sink.move", chosen) as done:
        moved = _moved(service, wanted, giver, taker)
        done.count = moved.count
    return moved


def _moved(service: Service, wanted: MoveParameters, giver: str, taker: str) -> MoveResult:
    kind, cursor = wanted.after[:1] or _DELIVERIES, wanted.after[1:]
    how: dict[str, Any] = {"delivered": wanted.delivered, "undo": wanted.undo}
    count, left, until = 0, 0, time.monotonic() + TIME

    def rename(connection: Connection) -> str:
        return orphans.rename_links(connection, giver, taker, cursor)

    def move(connection: Connection) -> orphans.Moved:
        return orphans.move(connection, giver, taker, database_now(connection), cursor=cursor, **how)

    while True:
        if kind == _DELIVERIES:
            page = service.ledger.write(move)
            count, left, cursor = count + page.count, left + page.left, page.cursor
            kind = kind if cursor else _LINKS
        elif not (cursor := service.ledger.write(rename)):
            return MoveResult(count=count, left=left, next=None)
        if time.monotonic() > until:
            return MoveResult(count=count, left=left, next=kind + cursor)


def _check_move(config: Config, wanted: MoveParameters) -> None:
    """Raise Invalid for a move that makes no sense."""
    old, new, sinks = wanted.sink, wanted.into, config.destinations
    if CALLBACK in (old, new):
        raise Invalid(f"{CALLBACK}: callers' webhooks go to the address of each caller, and to no other sink")
    if old == new:
        raise Invalid(f"{old} and {new} are one sink")
    if not wanted.undo and old in sinks:
        raise Invalid(f"{old} is still in the config, and would keep getting deliveries: remove it first")
    if not wanted.undo and new not in sinks:
        raise Invalid(f"no sink is called {new}; the config has {', '.join(sinks) or 'none'}")
    if wanted.after[:1] not in ("", _DELIVERIES, _LINKS):
        raise Invalid("after: not a cursor of this call; give `next` of the previous call unchanged")


LIST_SINKS: Final = call("GET", "/sinks", VIEW, list_sinks)
GET_SINK: Final = call("GET", "/sinks/{sink}", VIEW, get_sink)
PAUSE_SINK: Final = call("POST", "/sinks/{sink}/pause", OPERATE, pause_sink, all_sources=True)
RESUME_SINK: Final = call("POST", "/sinks/{sink}/resume", OPERATE, resume_sink, all_sources=True)
TEST_SINK: Final = call("POST", "/sinks/{sink}/test", OPERATE, test_sink, all_sources=True)
MOVE_SINK: Final = call("POST", "/sinks/{sink}/move", OPERATE, move_sink, all_sources=True)
