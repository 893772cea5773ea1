"""Sinks: breaker, lag and pause; pause and resume one, move the deliveries of one that left the config."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pydantic import Field

from handlers.contract import Delivery, Receipt, Refused, SinkError, Unavailable
from receiver.api import audit as audited
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
from receiver.ledger.deliveries.orphans import Moved
from receiver.runtime.process import error_location
from receiver.skyvern import members

# What a sink is called in lists that callers' webhooks go to.
CALLBACK_TYPE: Final = "callers' webhooks"
# Origins with an open breaker that are told.
MOST_ORIGINS: Final = 200


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
    """A sink. What concerns all sources is null or empty for one who may see one source only."""

    name: str
    type: str
    paused: bool
    paused_at: Moment | None
    breaker: str = Field(description="closed, open or probing.")
    opened_at: Moment | None = Field(description="Since when it is not closed.")
    probe_at: Moment | None = Field(description="When it is tried next.")
    reason: str = Field(description="Why it is open.")
    deliveries: dict[str, int] | None = Field(
        description=f"How many are in each state that needs somebody or something, up to {stats.COUNT_LIMIT} of each."
    )
    oldest_due_at: Moment | None = Field(None, description="Since when its oldest delivery waits beyond its time.")
    lag: float | None = Field(None, description="Seconds for which that waits.")
    orphaned: bool = Field(description="It is not in the config, and has deliveries that nobody would send.")
    origins: OriginsRow | None = Field(None, description="Of the callers' webhooks.")


class SinkParameters(Scoped):
    """Which sink."""

    sink: str = Field(max_length=200, description="The sink's name.")


def list_sinks(service: Service, _actor: Actor, wanted: Scoped) -> Page[SinkRow]:
    """List the sinks of the config, and those that it has lost while they have deliveries that wait."""
    return Page(items=service.ledger.read(lambda it: _read(it, service.config, whole=not wanted.source)))


def get_sink(service: Service, actor: Actor, wanted: SinkParameters) -> SinkRow:
    """Return one sink, with its breaker, its lag and the counts of its deliveries."""
    for row in list_sinks(service, actor, wanted).items:
        if row.name == wanted.sink:
            return row
    raise NotFound(f"sink {wanted.sink}: there is none")


def _read(connection: Connection, config: Config, *, whole: bool) -> list[SinkRow]:
    if not whole:
        known = lanes.named(connection, config.destinations)
        rows = sink_rows(config, known, {})
        return [SinkRow.model_validate({**row, "deliveries": None, "reason": "", "origins": None}) for row in rows]
    now = database_now(connection)
    known = {lane.lane: lane for lane in lanes.not_closed(connection)}
    counts: dict[str, dict[str, int]] = {}
    for (sink, state), count in stats.counts(connection).items():
        counts.setdefault(sink, {})[state] = count
    due = stats.oldest_due(connection, now)
    return [
        SinkRow.model_validate({**row, "oldest_due_at": due.get(row["name"]), "lag": _lag(due.get(row["name"]), now)})
        for row in sink_rows(config, known, counts)
    ]


def _lag(since: float | None, now: float) -> float:
    return 0.0 if since is None else round(max(0.0, now - since), 3)


def sink_rows(config: Config, known: Mapping[str, Lane], counts: Mapping[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Return what is told of each sink. `known`: lanes by name; `counts`: deliveries by sink and state."""
    types = {name: sink.type for name, sink in config.sinks.items()}
    types |= {name: CALLBACK_TYPE for name in config.destinations if name not in types}
    found: list[dict[str, Any]] = []
    for name, kind in types.items():
        state = _lane(known.get(name) or Lane(name, name))
        row = {"name": name, "type": kind, **state, "deliveries": counts.get(name, {}), "orphaned": False}
        if name == CALLBACK:
            row["origins"] = _origins(known.values())
        found.append(row)
    return [*found, *_orphaned(counts, types)]


def _lane(lane: Lane) -> dict[str, Any]:
    """Return what is told of a sink's own lane. The reason of a failure is no news once the breaker is closed."""
    shut = lane.breaker != "closed"
    return {
        "paused": lane.paused,
        "paused_at": lane.paused_at or None,
        "breaker": lane.breaker,
        "opened_at": (lane.opened_at or None) if shut else None,
        "probe_at": lane.until if shut else None,
        "reason": lane.reason if shut else "",
    }


def _orphaned(counts: Mapping[str, dict[str, int]], sinks: Collection[str]) -> list[dict[str, Any]]:
    """Return rows for sinks that are not in the config and have deliveries that nobody would send."""
    by_state = {(sink, state): count for sink, states in counts.items() for state, count in states.items()}
    return [
        {
            "name": sink,
            "type": "",
            **_lane(Lane(sink, sink)),
            "reason": f"runhook sink move {sink} NAME, or runhook cancel --sink {sink}",
            "deliveries": counts[sink],
            "orphaned": True,
        }
        for sink in orphans.orphaned(by_state, sinks)
    ]


def _origins(known: Iterable[Lane]) -> dict[str, Any]:
    """Return the origins of callers' webhooks whose breaker is not closed."""
    shut = [lane for lane in known if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    return {
        "shut": [
            {
                "origin": callback.origin_in(lane.lane),
                "key": callback.key_in(lane.lane),
                "breaker": lane.breaker,
                "until": lane.until or None,
                "reason": lane.reason,
            }
            for lane in sorted(shut, key=lambda lane: lane.lane)[:MOST_ORIGINS]
        ],
    }


def require_sink(config: Config, name: str) -> None:
    """Raise Invalid when the config has no sink `name`."""
    if name in config.destinations:
        return
    if name == CALLBACK:
        raise Invalid(f"{name} serves the webhooks of those who submit runs here; no source has an api_key to do so")
    raise Invalid(f"no sink is called {name}; the config has {', '.join(config.destinations) or 'none'}")


def require_live_sink(service: Service, name: str) -> None:
    """Raise Invalid when the config has no sink `name`, with what helps when it had one that deliveries go to."""
    gone = name not in service.config.destinations and name != CALLBACK
    if gone and service.ledger.read(lambda it: names.has_sink(it, name)):
        raise sink_gone(name)
    require_sink(service.config, name)


def sink_gone(name: str) -> Invalid:
    """Return the error for a sink that is not in the config any more, but has deliveries."""
    return Invalid(
        f"{name}: it is not in the config any more, so nobody would send to it; `runhook sink move {name} NAME` gives "
        f"its deliveries to another one, `runhook cancel --sink {name}` ends those that wait"
    )


LIST_SINKS: Final = call("GET", "/sinks", VIEW, list_sinks)
GET_SINK: Final = call("GET", "/sinks/{sink}", VIEW, get_sink)


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


PAUSE_SINK: Final = call("POST", "/sinks/{sink}/pause", OPERATE, pause_sink, all_sources=True)
RESUME_SINK: Final = call("POST", "/sinks/{sink}/resume", OPERATE, resume_sink, all_sources=True)
TEST_SINK: Final = call("POST", "/sinks/{sink}/test", OPERATE, test_sink, all_sources=True)


# Seconds after which a call says where the next one goes on.
TIME: Final = 5.0
# What `after` begins with: deliveries are moved first, then what waits for them.
_DELIVERIES, _LINKS = "d", "l"


class MoveParameters(SinkParameters):
    """Which sink's deliveries go to which. `sink`: the one that is not in the config any more."""

    into: str = Field(max_length=200, description="The sink that gets its deliveries.")
    delivered: bool = Field(
        False, description="Also what `sink` has delivered: `into` is the same sink, and is not told again."
    )
    undo: bool = Field(False, description="Give back what `into` got from `sink` and has not delivered.")
    dry_run: bool = Field(False, description="Change nothing: return how many there are as `count`.")
    after: str = Field("", max_length=300, description="Where to go on: `next` of the call before.")


class MoveResult(Result):
    """What a call has moved."""

    count: int
    left: int = Field(description="Deliveries of events that the other sink has a delivery of already.")
    next: str | None = Field(description="Give it as `after` to go on; null at the end.")


def move_sink(service: Service, actor: Actor, wanted: MoveParameters) -> MoveResult:
    """Give the deliveries of a sink that left the config to another one, under the same idempotency keys.

    What waits is due at once; dead letters and cancelled ones stay so. Call it again with `next` until that is null.
    """
    _check(service, wanted)
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
    with audited.audited(service.ledger, actor, "sink.move", chosen) as told:
        moved = _moved(service, wanted, giver, taker)
        told.count = moved.count
    return moved


def _moved(service: Service, wanted: MoveParameters, giver: str, taker: str) -> MoveResult:
    kind, cursor = wanted.after[:1] or _DELIVERIES, wanted.after[1:]
    how: dict[str, Any] = {"delivered": wanted.delivered, "undo": wanted.undo}
    count, left, until = 0, 0, time.monotonic() + TIME

    def rename(connection: Connection) -> str:
        return orphans.rename_links(connection, giver, taker, cursor)

    def move(connection: Connection) -> Moved:
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


def _check(service: Service, wanted: MoveParameters) -> None:
    """Raise Invalid for a move that can't be meant."""
    old, new, sinks = wanted.sink, wanted.into, service.config.destinations
    if CALLBACK in (old, new):
        raise Invalid(f"{CALLBACK}: callers' webhooks go where each caller wants them, and to no other sink")
    if old == new:
        raise Invalid(f"{old} and {new} are one sink")
    if not wanted.undo and old in sinks:
        raise Invalid(f"{old} is still in the config, and would go on getting deliveries: take it out first")
    if not wanted.undo and new not in sinks:
        raise Invalid(f"no sink is called {new}; the config has {', '.join(sinks) or 'none'}")
    if wanted.after[:1] not in ("", _DELIVERIES, _LINKS):
        raise Invalid("after: is no `next` of a call before")


MOVE_SINK: Final = call("POST", "/sinks/{sink}/move", OPERATE, move_sink, all_sources=True)
