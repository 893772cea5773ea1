"""What each page shows, as values for its template: asked of the functions of the API, for the person who looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from receiver.api.artifacts import LIST_ARTIFACTS
from receiver.api.events import GET_EVENT
from receiver.api.outline import outline
from receiver.api.runs import GET_RUN, LIST_RUNS, RunDetails
from receiver.api.service import Actor, Service
from receiver.api.status import GET_STATUS, Status
from receiver.console.sign_in import PATH
from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL
from receiver.errors import NotFound

Query = Sequence[tuple[str, str]]

# Runs on the overview.
_NEWEST: Final = 10


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """A page. `load`: its values, by the names in the path and the query; runs in a thread, and raises RequestError."""

    path: str
    template: str
    load: Callable[[Service, Actor, Mapping[str, str], Query], Mapping[str, Any]]


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


def runs(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of runs that match what the query says."""
    given = [(name, value) for name, value in query if value]  # a form sends its empty fields too
    wanted = LIST_RUNS.parse({}, given)
    found = LIST_RUNS.call(service, actor, wanted)
    same = [(name, value) for name, value in given if name != "after"]
    return {
        "title": "Runs",
        "here": "Runs",
        "runs": found.items,
        "wanted": wanted,
        "since": dict(given).get("since", ""),
        "statuses": [*sorted(FINAL), *sorted(ACTIVE)],
        "filtered": any(name != "limit" for name, _ in given),
        "next_path": f"{PATH}/runs?{urlencode([*same, ('after', found.next)])}" if found.next else None,
    }


def run(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one run told whole."""
    told = GET_RUN.call(service, actor, GET_RUN.parse(names, query))
    of_run = {"run": told.run.run_id, "source": told.run.source}
    output, note = _output(service, actor, told)
    return {
        "title": told.run.run_id,
        "here": "Runs",
        "run": told.run,
        "timeline": told.timeline,
        "deliveries": told.deliveries,
        "facts": _facts(told),
        "output": None if output is None else outline(output),
        "output_note": note,
        "files": LIST_ARTIFACTS.call(service, actor, LIST_ARTIFACTS.validated(of_run)).items,
    }


def _output(service: Service, actor: Actor, told: RunDetails) -> tuple[Any, str]:
    """Return the output of the run's newest event, and why it is not here."""
    wanted = {"event_id": told.run.event_id, "source": told.run.source}
    try:
        found = GET_EVENT.call(service, actor, GET_EVENT.validated(wanted))
    except NotFound:
        return None, "its event has been removed"
    run = found.run if isinstance(found.run, dict) else {}
    return run.get("output"), found.note or "the run has none"


def _facts(told: RunDetails) -> list[tuple[str, str]]:
    found = told.run
    facts = [
        ("source", found.source),
        ("type", found.run_type),
        ("status at Skyvern", found.status),
        ("attempt", str(found.attempt) if found.attempt > 1 else ""),
        ("workflow", found.workflow_id or ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(found.labels.items()))),
        ("started again from", found.retried_from or ""),
        ("started again as", found.retried_by or ""),
        ("events", str(found.events)),
    ]
    return [(name, value) for name, value in facts if value]


PAGES: Final = (
    ConsolePage("/", "overview.html", overview),
    ConsolePage("/runs", "runs.html", runs),
    ConsolePage("/runs/{run_id:path}", "run.html", run),
)
