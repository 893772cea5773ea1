"""The first page: what is wrong now, numbers, sinks, parts, the newest runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.runs import LIST_RUNS
from receiver.api.service import Actor, Service
from receiver.api.status import GET_STATUS, Status
from receiver.console.page import ConsolePage, PageLink, Query

# Runs on the overview.
_NEWEST: Final = 10


def overview(service: Service, actor: Actor, _names: Mapping[str, str], _query: Query) -> Mapping[str, Any]:
    """Return what is wrong, first; numbers, sinks, parts, and the newest runs."""
    status = None if actor.source else GET_STATUS.call(service, actor, GET_STATUS.validated({}))
    runs = LIST_RUNS.call(service, actor, LIST_RUNS.validated({"limit": _NEWEST})).items
    figures, sinks = ([], []) if status is None else (_figures(status), _sinks(status))
    return {"title": "Overview", "here": "Overview", "status": status, "runs": runs, "figures": figures, "sinks": sinks}


def _figures(status: Status) -> list[dict[str, Any]]:
    def count(*states: str) -> int:
        return sum(by_state.get(state, 0) for by_state in status.ledger.deliveries.values() for state in states)

    return [
        {"name": "on their way", "value": count("queued", "sending", "held")},
        {"name": "waiting for their next attempt", "value": count("waiting")},
        {"name": "dead letters", "value": count("dead")},
        {"name": "in the inbox", "value": status.redis.get("inbox", {}).get("entries", 0)},
        {"name": "in quarantine", "value": status.disk.get("quarantine", 0)},
    ]


def _sinks(status: Status) -> list[dict[str, Any]]:
    shut = {lane.lane: lane for lane in status.ledger.lanes if lane.lane == lane.sink}
    names = [part.removeprefix("deliver:") for part in status.expected if part.startswith("deliver:")]
    return [
        {
            "name": name,
            "state": _state(name, shut, status),
            "reason": shut[name].reason if name in shut else "",
            "counts": status.ledger.deliveries.get(name, {}),
            "oldest": status.ledger.oldest_due_at.get(name),
        }
        for name in [*names, *(orphan for orphan in status.ledger.orphans if orphan not in names)]
    ]


def _state(name: str, shut: Mapping[str, Any], status: Status) -> str:
    if name in status.ledger.orphans:
        return "orphaned"
    if name not in shut:
        return "running"
    return "paused" if shut[name].paused else str(shut[name].breaker)


PAGES: Final = (ConsolePage("/", "overview.html", overview, PageLink("Overview", "o", "")),)
