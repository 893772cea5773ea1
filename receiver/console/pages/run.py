"""A run: timeline, output, files; and an event of it: its body as it came and as sinks get it, and where it went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple

from handlers.support.resubmit_chain import RETRIED
from handlers.support.timestamps import iso
from receiver.api.artifacts import LIST_ARTIFACTS, ArtifactRow
from receiver.api.deliveries import LIST_ATTEMPTS, LIST_DELIVERIES
from receiver.api.events import GET_EVENT, GET_EVENT_BODY
from receiver.api.models import MAX_LIMIT
from receiver.api.outline import outline
from receiver.api.routes import EXPLAIN
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, RunRow
from receiver.api.runs import GET_RUN, RunDetails
from receiver.api.submissions import LIST_SUBMISSIONS
from receiver.api.timeline import ONLY_WEBHOOK
from receiver.console.page import ConsolePage, FileLinks, PageRequest, PageValues, event_path, run_path
from receiver.console.pages.deliveries import resubmits
from receiver.console.pages.lists import submission
from receiver.domain.delivery import DeliveryState
from receiver.errors import Invalid, NotFound, TooLarge

# Characters of a body that are shown; all of it can be saved.
_MOST_TEXT: Final = 64 << 10
# Pictures that are shown in place; more of them stand in the list of files.
_MOST_PICTURES: Final = 60
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")
_VIDEOS: Final = (".webm", ".mp4", ".mov")
# Why an event of this disposition is not routed.
_UNROUTED: Final = {"unreadable": "it can't be read", "interim": "the run had not ended"}
_WAITS: Final = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.WAITING)


class FileView(NamedTuple):
    """A file of a run. `path`: where its bytes are; "" when no sink has stored them."""

    row: ArtifactRow
    path: str


def run(request: PageRequest) -> PageValues:
    """Return a run with timeline, output and files; of one without a result, its submission."""
    try:
        details = request.call_as_asked(GET_RUN)
    except NotFound:
        given = GET_RUN.parse(request.names, request.query)
        if not given.run_id:  # a filter with it would find all
            raise
        with suppress(Invalid):  # for an id that no submission has either
            for each in request.call(LIST_SUBMISSIONS, run=given.run_id, source=given.source, limit=1).items:
                return {**_submission(request, each.id), "template": "submission.html"}
        raise
    newest, note = _newest(request, details)
    output = newest.get("output")
    files, more_files = _files(request, details)
    stored = [each for each in files if each.path]
    pictures = [each for each in stored if each.row.name.lower().endswith(_PICTURES)]
    return {
        "title": details.run.run_id,
        "counts_as": ONLY_WEBHOOK if details.run.outcome == "completed" != details.run.status else "",
        "here": "Runs",
        "run": details.run,
        "timeline": [each for each in details.timeline if not each.sink],
        "deliveries": failures_first(details.deliveries),
        "not_sent": "" if details.deliveries else _not_sent(request, details.run, newest),
        "attempts": attempts_by_delivery(details.attempts),
        "sizes": {each.id: each.size for each in details.events},
        "events": details.events,
        "submissions": [_submission(request, each.id) for each in details.submissions],
        "facts": _facts(details),
        "missing": list(_not_stored(files, details.attempts)),
        "stored": sum(bool(each.row.stored) for each in files),
        "no_output": _no_output(details.run, note),
        "output": None if output is None else outline(output),
        "files": files,
        "more_files": more_files,
        "videos": [each for each in stored if each.row.name.lower().endswith(_VIDEOS)],
        "pictures": pictures[:_MOST_PICTURES],
        "pictures_left": len(pictures[_MOST_PICTURES:]),
        "can": _possible(details),
        "resubmits": resubmits(request.service),
    }


def _submission(request: PageRequest, submission_id: str) -> PageValues:
    return submission(replace(request, names={"id": submission_id}, query=[]))


def attempts_by_delivery(attempts: Sequence[AttemptRow]) -> dict[str, list[AttemptRow]]:
    """Return the attempts of each delivery, in their order."""
    grouped: dict[str, list[AttemptRow]] = {}
    for each in sorted(attempts, key=lambda each: each.number):
        grouped.setdefault(each.delivery_id, []).append(each)
    return grouped


def _newest(request: PageRequest, details: RunDetails) -> tuple[dict[str, Any], str]:
    """Return the run from its newest event, and why that is missing or incomplete."""
    try:
        event_details = request.call(GET_EVENT, event_id=details.run.event_id, source=details.run.source)
    except NotFound:
        return {}, "its event has been removed"
    return event_details.run if isinstance(event_details.run, dict) else {}, event_details.note


def _not_sent(request: PageRequest, row: RunRow, newest: Mapping[str, Any]) -> str:
    """Return why a run has no deliveries. Before its end, add the sinks of a result like `newest`."""
    if row.final or row.source not in request.service.config.sources:
        return "No route sends this run anywhere."
    body = {**newest, "run_id": row.run_id, "status": "completed", "retry_pending": False}
    explained = request.call(EXPLAIN, body=body, source=row.source, labels=row.labels)
    sinks = ", ".join(each.sink for each in explained.deliveries)
    result = f" If it completes, its result goes to {sinks}." if sinks else ""
    return f"Nothing to send yet: the run has not ended, and no route with interim: true matches.{result}"


def _files(request: PageRequest, details: RunDetails) -> tuple[list[FileView], bool]:
    """Return the files, at most MAX_LIMIT, and whether there are more."""
    page = request.call(LIST_ARTIFACTS, run=details.run.run_id, source=details.run.source, limit=MAX_LIMIT)
    sinks, now = request.service.config.sinks, time.time()
    links = FileLinks(request.service.settings.master_secret(make=True))
    views = [
        FileView(
            each,
            links.path(request.actor.name, each.source, each.run_id, each.name, now)
            if any(copy.key and copy.sink in sinks for copy in each.stored)
            else "",
        )
        for each in page.items
    ]
    return views, page.next is not None


def _no_output(row: RunRow, note: str) -> str:
    """Return why there is no output. `note`: why the event's body cannot be shown, or ""."""
    if row.erased_at is not None:
        return f"Erased at {iso(row.erased_at)} by {row.erased_by}."
    if note:
        return f"Not available: {note}."
    if row.final:
        return f"None: the run {row.outcome.replace('_', ' ')}." if row.outcome in RETRIED else "The run returned none."
    return "Not yet: the run has not ended."


def failures_first(deliveries: Sequence[DeliveryRow]) -> list[DeliveryRow]:
    """Return deliveries with those that need attention first."""
    order = [DeliveryState.DEAD, DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.QUEUED, DeliveryState.HELD]
    places = {state.value: place for place, state in enumerate(order)}
    return sorted(deliveries, key=lambda each: places.get(each.state, len(places)))


def _not_stored(files: Sequence[FileView], attempts: Sequence[AttemptRow]) -> Iterator[str]:
    """Yield what is not here, and why."""
    count = sum(not each.row.stored for each in files)
    if count:
        yield f"No sink has stored {count} of {len(files)} files. Skyvern's links to them expire."
        for sink, note in dict.fromkeys((each.sink, (each.receipt or {}).get("note")) for each in attempts):
            if "not kept" in (note or ""):
                yield f"{sink}: {note}."


def _possible(details: RunDetails) -> dict[str, bool]:
    """Return which buttons could do something now."""
    has = {state for state, count in details.run.deliveries.items() if count and details.run.erased_at is None}
    return {
        "replay": DeliveryState.DEAD in has,
        "send": DeliveryState.DELIVERED in has,
        "cancel": not has.isdisjoint(_WAITS),
        "restore": DeliveryState.CANCELLED in has,
        "resubmit": details.run.outcome in RETRIED and not details.run.retried_by and details.run.erased_at is None,
    }


def _facts(details: RunDetails) -> list[tuple[str, str, str]]:
    """Return name, value, and where that leads to, if it is not empty."""
    row = details.run

    def of_run(run_id: str | None) -> tuple[str, str]:
        return (run_id, run_path(row.source, run_id)) if run_id else ("", "")

    facts = [
        ("source", row.source, ""),
        ("type", row.run_type, ""),
        ("status at Skyvern", row.status, ""),
        ("attempt", str(row.attempt) if row.attempt > 1 else "", ""),
        ("workflow", row.workflow_id or "", ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(row.labels.items())), ""),
        ("previous attempt", *of_run(row.retried_from)),
        ("next attempt", *of_run(row.retried_by)),
        ("next attempt", "Skyvern will start it again" if row.retry_pending and not row.retried_by else "", ""),
    ]
    return [each for each in facts if each[1]]


def event(request: PageRequest) -> PageValues:
    """Return one event with its body and its deliveries."""
    details = request.call_as_asked(GET_EVENT)
    row = details.event
    deliveries = request.call(LIST_DELIVERIES, event_id=row.id, source=row.source, limit=MAX_LIMIT).items
    attempts = request.call(LIST_ATTEMPTS, event_id=row.id, source=row.source, limit=MAX_LIMIT).items
    text, left = _body(request, row)
    return {
        "title": f"Event {row.id}",
        "here": "Runs",
        "event": row,
        "facts": _event_facts(row),
        "tree": outline(details.run) if details.run else None,
        "note": details.note,
        "text": text,
        "left": left,
        "deliveries": failures_first(deliveries),
        "attempts": attempts_by_delivery(attempts),
    }


def _body(request: PageRequest, row: EventRow) -> tuple[str, int]:
    """Return the text of the body, and how many characters of it are left out."""
    try:
        kept = request.call(GET_EVENT_BODY, event_id=row.id, source=row.source)
    except TooLarge:
        return "", row.size
    text = kept.content().decode("utf-8", "backslashreplace")
    return text[:_MOST_TEXT], max(0, len(text) - _MOST_TEXT)


def explanation(request: PageRequest) -> PageValues:
    """Return what the current rules do with an event: which match, why, and where it goes."""
    row = request.call_as_asked(GET_EVENT).event
    wanted = {"source": row.source, "via": row.via}
    wanted["raw"] = request.call(GET_EVENT_BODY, event_id=row.id, source=row.source).content().decode(errors="replace")
    labels = request.call(GET_RUN, run_id=row.run_id, source=row.source).run.labels if row.run_id else {}
    disposition = "" if row.disposition == "unreadable" else row.disposition
    body = request.call(EXPLAIN, **wanted, labels=labels, disposition=disposition)
    return {"title": "Explanation by the current rules", "here": "Runs", "event": row, "body": body}


def _event_facts(row: EventRow) -> list[tuple[str, str, str]]:
    """Return name, value, and where that leads to, if it is not empty."""
    unreadable = row.disposition == "unreadable"
    repeats = (row.repeat_of, event_path(row.repeat_of)) if row.repeat_of else ("", "")
    facts = [
        ("source", row.source, ""),
        ("via", row.via, ""),
        ("kind", row.disposition, ""),
        ("repeat of", *repeats),
        ("routed", f"no: {_UNROUTED.get(row.disposition, 'no route matches')}" if row.unrouted else "", ""),
        ("problem", row.problem, ""),
        ("fix", "runhook reconcile --import --now fetches the result from Skyvern" if unreadable else "", ""),
        ("status at Skyvern", row.status, ""),
        ("attempt", str(row.attempt) if row.attempt > 1 else "", ""),
        ("size", f"{row.size:,} bytes", ""),
    ]
    return [each for each in facts if each[1]]


PAGES: Final = (
    ConsolePage("/runs/{run_id:path}", "run.html", run),
    ConsolePage("/events/{event_id}", "event.html", event),
    ConsolePage("/events/{event_id}/explanation", "explanation.html", explanation),
)
