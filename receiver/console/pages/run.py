"""One run told whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.artifacts import LIST_ARTIFACTS
from receiver.api.events import GET_EVENT
from receiver.api.outline import outline
from receiver.api.runs import GET_RUN, RunDetails
from receiver.api.service import Actor, Service
from receiver.console.page import ConsolePage, Query
from receiver.errors import NotFound


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


PAGES: Final = (ConsolePage("/runs/{run_id:path}", "run.html", run),)
