"""Sinks: breaker, lag, and whether they are paused; those that the config has lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.models import Moment, Page, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.domain import callback
from receiver.domain.api_key import VIEW
from receiver.domain.breaker import Lane
from receiver.domain.callback import CALLBACK
from receiver.errors import Invalid, NotFound
from receiver.ledger import Connection, names, stats
from receiver.ledger.database_clock import database_now
from receiver.ledger.deliveries import lanes, orphans

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


LIST_SINKS = Endpoint("list_sinks", "GET", "/sinks", VIEW, Scoped, Page[SinkRow], list_sinks)
GET_SINK = Endpoint("get_sink", "GET", "/sinks/{sink}", VIEW, SinkParameters, SinkRow, get_sink)
ENDPOINTS = (LIST_SINKS, GET_SINK)
