"""A run: timeline, output, files; and an event of it: its body as it came and as sinks get it, and where it went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from handlers.support.resubmit_chain import RETRIED
from handlers.support.timestamps import iso
from receiver.api.artifacts import LIST_ARTIFACTS, ArtifactRow
from receiver.api.deliveries import LIST_ATTEMPTS, LIST_DELIVERIES
from receiver.api.events import GET_EVENT, GET_EVENT_BODY
from receiver.api.models import MAX_LIMIT
from receiver.api.outline import outline
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, RunRow
from receiver.api.runs import GET_RUN, RunDetails
from receiver.api.service import Actor, Service
from receiver.console.page import ConsolePage, FileLinks, Query, event_path, run_path
from receiver.console.pages.deliveries import resubmits
from receiver.domain.delivery import DeliveryState
from receiver.errors import NotFound, TooLarge

# Characters of a body that are shown; all of it can be saved.
_MOST_TEXT: Final = 64 << 10
# Pictures that are shown in place; more of them stand in the list of files.
_MOST_PICTURES: Final = 60
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
_VIDEOS: Final = (".webm", ".mp4", ".mov")
_WAITS: Final = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.WAITING)


class FileView(NamedTuple):
    """A file of a run. `path`: where its bytes are; "" when no sink has stored them."""

    row: ArtifactRow
    path: str


def run(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a run with timeline, output and files."""
    told = GET_RUN.call(service, actor, GET_RUN.parse(names, query))
    output, note = _output(service, actor, told)
    files, more_files = _files(service, actor, told)
    stored = [each for each in files if each.path]
    pictures = [each for each in stored if each.row.name.lower().endswith(_PICTURES)]
    return {
        "title": told.run.run_id,
        "here": "Runs",
        "run": told.run,
        "timeline": [each for each in told.timeline if not each.sink],
        "deliveries": failures_first(told.deliveries),
        "attempts": attempts_by_delivery(told.attempts),
        "sizes": {each.id: each.size for each in told.events},
        "events": told.events,
        "submissions": [(each, outline(each.request)) for each in told.submissions],
        "facts": _facts(told),
        "missing": list(_not_stored(files)),
        "no_output": _no_output(told.run, note),
        "output": None if output is None else outline(output),
        "files": files,
        "more_files": more_files,
        "videos": [each for each in stored if each.row.name.lower().endswith(_VIDEOS)],
        "pictures": pictures[:_MOST_PICTURES],
        "pictures_left": len(pictures[_MOST_PICTURES:]),
        "can": _possible(told),
        "resubmits": resubmits(service),
    }


def attempts_by_delivery(attempts: Sequence[AttemptRow]) -> dict[str, list[AttemptRow]]:
    """Return the attempts of each delivery, in their order."""
    found: dict[str, list[AttemptRow]] = {}
    for each in sorted(attempts, key=lambda each: each.number):
        found.setdefault(each.delivery_id, []).append(each)
    return found


def _output(service: Service, actor: Actor, told: RunDetails) -> tuple[Any, str]:
    """Return the output of the run's newest event, and why it is not here."""
    wanted = {"event_id": told.run.event_id, "source": told.run.source}
    try:
        found = GET_EVENT.call(service, actor, GET_EVENT.validated(wanted))
    except NotFound:
        return None, "its event has been removed"
    run = found.run if isinstance(found.run, dict) else {}
    return run.get("output"), found.note


def _files(service: Service, actor: Actor, told: RunDetails) -> tuple[list[FileView], bool]:
    """Return the files, at most MAX_LIMIT, and whether there are more."""
    of_run = {"run": told.run.run_id, "source": told.run.source, "limit": MAX_LIMIT}
    found = LIST_ARTIFACTS.call(service, actor, LIST_ARTIFACTS.validated(of_run))
    links, now, sinks = FileLinks(service.settings.master_secret(make=True)), time.time(), service.config.sinks
    views = [
        FileView(
            each,
            links.path(actor.name, each.source, each.run_id, each.name, now)
            if any(copy.key and copy.sink in sinks for copy in each.stored)
            else "",
        )
        for each in found.items
    ]
    return views, found.next is not None


def _no_output(row: RunRow, note: str) -> str:
    """Return why there is no output. `note`: why the event's body cannot be shown, or ""."""
    if row.erased_at is not None:
        return f"Erased at {iso(row.erased_at)} by {row.erased_by}."
    if note:
        return f"Not available: {note}."
    if row.final:
        return f"None: the run {row.outcome.replace('_', ' ')}." if row.outcome in RETRIED else "The run returned none."
    return "Not yet: the run has not ended."


def failures_first(found: Sequence[DeliveryRow]) -> list[DeliveryRow]:
    """Return deliveries with those that need attention first."""
    order = [DeliveryState.DEAD, DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.QUEUED, DeliveryState.HELD]
    places = {state.value: place for place, state in enumerate(order)}
    return sorted(found, key=lambda each: places.get(each.state, len(places)))


def _not_stored(files: Sequence[FileView]) -> Iterator[str]:
    """Yield what is not here, and why."""
    count = sum(not each.row.stored for each in files)
    if count:
        yield f"No sink has stored {count} of {len(files)} files. Skyvern's links to them expire."


def _possible(told: RunDetails) -> dict[str, bool]:
    """Return which buttons could do something now."""
    has = {state for state, count in told.run.deliveries.items() if count and told.run.erased_at is None}
    return {
        "replay": DeliveryState.DEAD in has,
        "send": DeliveryState.DELIVERED in has,
        "cancel": not has.isdisjoint(_WAITS),
        "restore": DeliveryState.CANCELLED in has,
        "resubmit": told.run.outcome in RETRIED and not told.run.retried_by and told.run.erased_at is None,
    }


def _facts(told: RunDetails) -> list[tuple[str, str, str]]:
    """Return name, value, and where that leads to, if it is not empty."""
    found = told.run

    def of_run(run_id: str | None) -> tuple[str, str]:
        return (run_id, run_path(found.source, run_id)) if run_id else ("", "")

    facts = [
        ("source", found.source, ""),
        ("type", found.run_type, ""),
        ("status at Skyvern", found.status, ""),
        ("attempt", str(found.attempt) if found.attempt > 1 else "", ""),
        ("workflow", found.workflow_id or "", ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(found.labels.items())), ""),
        ("previous attempt", *of_run(found.retried_from)),
        ("next attempt", *of_run(found.retried_by)),
        ("next attempt", "Skyvern will start it again" if found.retry_pending and not found.retried_by else "", ""),
    ]
    return [each for each in facts if each[1]]


def event(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one event with its body and its deliveries."""
    told = GET_EVENT.call(service, actor, GET_EVENT.parse(names, query))
    found = told.event
    of_event = {"event_id": found.id, "source": found.source, "limit": MAX_LIMIT}
    deliveries = LIST_DELIVERIES.call(service, actor, LIST_DELIVERIES.validated(of_event)).items
    attempts = LIST_ATTEMPTS.call(service, actor, LIST_ATTEMPTS.validated(of_event)).items
    text, left = _body(service, actor, found)
    return {
        "title": f"Event {found.id}",
        "here": "Runs",
        "event": found,
        "facts": _event_facts(found),
        "tree": outline(told.run) if told.run else None,
        "note": told.note,
        "text": text,
        "left": left,
        "deliveries": failures_first(deliveries),
        "attempts": attempts_by_delivery(attempts),
    }


def _body(service: Service, actor: Actor, found: EventRow) -> tuple[str, int]:
    """Return the text of the body, and how many characters of it are left out."""
    wanted = {"event_id": found.id, "source": found.source}
    try:
        kept = GET_EVENT_BODY.call(service, actor, GET_EVENT_BODY.validated(wanted))
    except TooLarge:
        return "", found.size
    text = kept.content().decode("utf-8", "backslashreplace")
    return text[:_MOST_TEXT], max(0, len(text) - _MOST_TEXT)


def _event_facts(found: EventRow) -> list[tuple[str, str, str]]:
    """Return name, value, and where that leads to, if it is not empty."""
    repeats = (found.repeat_of, event_path(found.repeat_of)) if found.repeat_of else ("", "")
    facts = [
        ("source", found.source, ""),
        ("via", found.via, ""),
        ("kind", found.disposition, ""),
        ("repeat of", *repeats),
        ("routed", "no route matches" if found.unrouted else "", ""),
        ("problem", found.problem, ""),
        ("status at Skyvern", found.status, ""),
        ("attempt", str(found.attempt) if found.attempt > 1 else "", ""),
        ("size", f"{found.size:,} bytes", ""),
    ]
    return [each for each in facts if each[1]]


PAGES: Final = (
    ConsolePage("/runs/{run_id:path}", "run.html", run),
    ConsolePage("/events/{event_id}", "event.html", event),
)
