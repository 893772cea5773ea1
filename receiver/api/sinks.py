"""Sinks: breaker, lag and pause; pause and resume one, and move the deliveries of a removed one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import Field

from receiver.api.audit import record_action
from receiver.api.endpoint import call
from receiver.api.models import Moment, Page, Result, Scoped
from receiver.api.operations import TakenResult, begin, preview
from receiver.api.service import Actor, Service
from receiver.checks import board
from receiver.config.models import Config
from receiver.domain import callback
from receiver.domain.api_key import OPERATE, VIEW
from receiver.domain.breaker import Lane
from receiver.domain.callback import CALLBACK
from receiver.domain.liveness import deliver
from receiver.errors import Invalid, NotFound
from receiver.ledger import Connection, heartbeats, stats
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.deliveries import lanes
from receiver.ledger.lists import names
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import MOVE, MOVE_BACK, Operation

# The type that lists show for the sink of callers' webhooks.
CALLBACK_TYPE: Final = "callers' webhooks"
# Maximum origins with an open breaker that are shown.
MOST_ORIGINS: Final = 200
# Maximum lanes of one sink that are probed at once when it resumes.
MOST_LANES: Final = 10_000


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
    response: str = Field("", description="How the newest response of its server begins while it is open.")
    worker: bool | None = Field(None, description="Whether a worker that serves it is running.")
    deliveries: dict[str, int] | None = Field(
        description=f"Deliveries by state, without delivered and cancelled ones, up to {stats.COUNT_LIMIT} of each."
    )
    more: list[str] = Field([], description="States of which there are more deliveries than that.")
    drained_in: float | None = Field(
        None,
        description="Seconds until the queued deliveries are sent at the rate of the last minute; a minimum if `more`"
        " is not empty. Null if few wait, or nothing was delivered.",
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


def list_sinks(service: Service, _actor: Actor, parameters: Scoped) -> Page[SinkRow]:
    """List the sinks of the config, and removed ones that still have pending deliveries."""
    return Page(items=service.ledger.read(lambda it: _rows(it, service.config, parameters.source)))


def get_sink(service: Service, actor: Actor, parameters: SinkParameters) -> SinkRow:
    """Return one sink, with its breaker, its lag and the counts of its deliveries."""
    for row in list_sinks(service, actor, parameters).items:
        if row.name == parameters.sink:
            return row
    raise NotFound(f"sink {parameters.sink}: not found")


def _rows(connection: Connection, config: Config, source: str) -> list[SinkRow]:
    """Return the rows of all sinks. `source`: the only one that the caller may see; "" for all."""
    types = {name: sink.type for name, sink in config.sinks.items()}
    types |= {name: CALLBACK_TYPE for name in config.destinations if name not in types}
    if source:
        known = lanes.by_name(connection, types)
        bare = {"reason": "", "deliveries": None, "orphaned": False}
        return [SinkRow(name=name, type=kind, **_state(known.get(name)) | bare) for name, kind in types.items()]
    now, counted = database_now(connection), stats.counts(connection)
    known = {lane.lane: lane for lane in lanes.not_closed(connection)}
    served = {seen.beat.role for seen in board.merged(heartbeats.list_processes(connection)) if seen.alive}
    due, removed = stats.oldest_due(connection, counted, now), stats.orphaned(counted, types)
    backlog = any(state == "queued" and count >= stats.BACKLOG for (_, state), count in counted.items())
    paces = stats.paces(connection, counted, now) if backlog else {}
    responses = stats.responses(connection, {lane.sink for lane in known.values() if lane.breaker != "closed"})
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
                response=responses.get(name, ""),
                worker=deliver(name) in served,
                deliveries=counts,
                more=sorted(state for state, count in counts.items() if count >= stats.COUNT_LIMIT),
                drained_in=paces[name].drained_in if name in paces else None,
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


def _origins(origin_lanes: Iterable[Lane]) -> OriginsRow:
    shut = [lane for lane in origin_lanes if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
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
    raise Invalid(f"unknown sink {name}; the config has {', '.join(config.destinations) or 'none'}")


def require_live_sink(service: Service, name: str) -> None:
    """Raise Invalid when the config has no sink `name`; for one that left it, with the commands that help."""
    removed = name not in service.config.destinations and name != CALLBACK
    if removed and service.ledger.read(lambda it: names.has_sink(it, name)):
        raise Invalid(
            f"{name}: it is no longer in the config, so its deliveries are not sent; `runhook sink move {name} NAME` "
            f"gives them to another sink, `runhook cancel --sink {name}` cancels pending ones"
        )
    require_sink(service.config, name)


def pause_sink(service: Service, actor: Actor, parameters: SinkParameters) -> SinkRow:
    """Pause a sink; its deliveries wait."""
    require_live_sink(service, parameters.sink)

    def pause(connection: Connection) -> None:
        lanes.set_paused(connection, parameters.sink, True, database_now(connection))
        record_action(connection, actor, "sink.pause", {"sink": parameters.sink}, 1)

    service.ledger.write(pause)
    return get_sink(service, actor, parameters)


def resume_sink(service: Service, actor: Actor, parameters: SinkParameters) -> ResumeResult:
    """Resume a paused sink. Its open breakers are probed at once."""
    require_live_sink(service, parameters.sink)

    def resume(connection: Connection) -> tuple[bool, int]:
        now = database_now(connection)
        mine = lanes.not_closed(connection, MOST_LANES, parameters.sink)
        paused, shut = any(lane.paused for lane in mine), [lane.lane for lane in mine if lane.breaker != "closed"]
        if paused:
            lanes.set_paused(connection, parameters.sink, False, now)
        lanes.probe_at_once(connection, shut, now)
        record_action(connection, actor, "sink.resume", {"sink": parameters.sink}, 1)
        return paused, len(shut)

    paused, probed = service.ledger.write(resume)
    return ResumeResult(sink=get_sink(service, actor, parameters), was_paused=paused, probed=probed)


class MoveParameters(SinkParameters):
    """Which sink's deliveries go to which other sink. `sink`: one that left the config."""

    into: str = Field(max_length=200, description="New sink of its deliveries.")
    delivered: bool = Field(False, description="Also move successful deliveries; they are not sent again.")
    undo: bool = Field(False, description="Return what `into` got from `sink` and has not delivered.")
    dry_run: bool = Field(False, description="Change nothing: return the count, and some of the deliveries.")


def move_sink(service: Service, actor: Actor, parameters: MoveParameters) -> TakenResult:
    """Move the deliveries of a removed or renamed sink to another, with the same idempotency keys.

    Pending ones are due at once; dead and cancelled ones stay so. Skips results that the other sink has already. The
    clock does it step by step, as an operation.
    """
    _check_move(service.config, parameters)
    giver, taker = (parameters.into, parameters.sink) if parameters.undo else (parameters.sink, parameters.into)
    kind = MOVE_BACK if parameters.undo else MOVE
    operation = Operation(kind, Selection(sink=giver), taker, force=parameters.delivered)
    result = service.ledger.read(lambda it: preview(it, operation))
    if not result.count:
        raise Invalid(f"{giver} has no such deliveries, so there is nothing to move")
    return result if parameters.dry_run else begin(service, actor, operation, name="sink.move")


def _check_move(config: Config, parameters: MoveParameters) -> None:
    """Raise Invalid for a move that makes no sense."""
    old, new, sinks = parameters.sink, parameters.into, config.destinations
    if CALLBACK in (old, new):
        raise Invalid(f"{CALLBACK}: callers' webhooks go to the address of each caller, and to no other sink")
    if old == new:
        raise Invalid(f"{old} and {new} are one sink")
    if not parameters.undo and old in sinks:
        raise Invalid(f"{old} is still in the config, and would keep getting deliveries: remove it first")
    if not parameters.undo and new not in sinks:
        raise Invalid(f"unknown sink {new}; the config has {', '.join(sinks) or 'none'}")


LIST_SINKS: Final = call("GET", "/sinks", VIEW, list_sinks)
GET_SINK: Final = call("GET", "/sinks/{sink}", VIEW, get_sink)
PAUSE_SINK: Final = call("POST", "/sinks/{sink}/pause", OPERATE, pause_sink, all_sources=True)
RESUME_SINK: Final = call("POST", "/sinks/{sink}/resume", OPERATE, resume_sink, all_sources=True)
MOVE_SINK: Final = call("POST", "/sinks/{sink}/move", OPERATE, move_sink, all_sources=True)
