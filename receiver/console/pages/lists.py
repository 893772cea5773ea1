"""Lists that show the rows of a call as they are, and the pages of one row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from handlers.support.resubmit_chain import RETRIED
from receiver.api.audit import LIST_AUDIT
from receiver.api.deliveries import REPLAY_DELIVERIES, REPLAYABLE, RESUBMIT_RUNS
from receiver.api.endpoint import Endpoint
from receiver.api.models import Filtered
from receiver.api.operations import CANCEL_OPERATION, GET_OPERATION, LIST_OPERATIONS, OperationParameters
from receiver.api.outline import outline
from receiver.api.runs import LIST_RUNS
from receiver.api.service import Actor, Service
from receiver.api.status import status_of
from receiver.api.submissions import GET_SUBMISSION, LIST_MISSING, LIST_SUBMISSIONS
from receiver.api.views import LIST_VIEWS, REMOVE_VIEW, SAVE_VIEW
from receiver.console.action import ConsoleAction
from receiver.console.filters import list_page
from receiver.console.page import SHARE, ConsolePage, PageLink, Query
from receiver.console.pages.deliveries import resubmits
from receiver.domain.counting import counted
from receiver.ledger import async_ledger
from receiver.status.survey import survey
from receiver.submit.kept_request import CALL

# Members of an operation's selection that find its deliveries also when it is done, and how the list calls them.
_STAYS: Final = {
    **{each: each for each in ("source", "sink", "route", "event_id", "run_prefix", "run_type", "workflow", "status")},
    "run_id": "run",
}
_MISSING: Final = ("run_prefix", "workflow", "title", "since")
# Codes of problems by which results may be missing of runs that no list has, or come late.
_UNLISTED: Final = frozenset(
    {"redis_lost", "webhooks_refused", "webhooks_missed", "misdirected", "quarantine", "spool_left", "spool_damaged"}
    | {"inbox_set_aside", "inbox_late", "part_missing", "part_suspended", "watch_trouble"}
)
_RUNS: Final = ("text", "status", "workflow", "run_prefix", "since")


def _list(call: Endpoint[Any, Any], link: PageLink, *common: str) -> ConsolePage:
    name = link.name.lower()

    def load(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
        return list_page(service, actor, query, call, f"/{name}", link.name, common)

    return ConsolePage(f"/{name}", f"{name}.html", load, link)


def runs(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of runs that match what the query says."""
    again = resubmits(service)
    page = list_page(service, actor, query, LIST_RUNS, "/runs", "Runs", _RUNS)
    given = page["form"].given
    return {
        **page,
        "on_rows": [
            (REPLAY_DELIVERIES.name, "Replay", ""),
            *((RESUBMIT_RUNS.name, label, into) for label, into in again),
        ],
        "replayable": bool(given) and set(given.get("state", ())) <= set(REPLAYABLE),
        "resubmits": again if _resubmittable(given) else [],
    }


def _resubmittable(given: Mapping[str, Sequence[str]]) -> bool:
    """Whether the runs that match may have failed ones, and the action has each filter of them."""
    status = set(given.get("status", RETRIED))
    return bool(given) and given.keys() <= Filtered.model_fields.keys() and not status.isdisjoint(RETRIED)


def submission(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one submission with its run and what it waits for."""
    details = GET_SUBMISSION.call(service, actor, GET_SUBMISSION.parse(names, query))
    row = details.submission
    facts = [
        ("id", row.id),
        ("source", row.source),
        ("call", row.call),
        ("key", details.key.name if details.key else row.key_id),
        ("type", row.run_type),
        ("answer", f"HTTP {row.answer_status}" if row.answer_status else ""),
        ("webhook", "the caller gave one" if row.webhook else "none from the caller"),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(row.labels.items()))),
        ("polled", counted(row.polls, "time", "times") if row.polls else ""),
    ]
    return {
        "title": row.title or row.prompt or row.id,
        "here": "Submissions",
        "submission": row,
        "run": details.run,
        "timeline": details.timeline,
        "facts": [(name, value) for name, value in facts if value],
        "resubmits": resubmits(service),
        "request": outline({name: row.request[name] for name in row.request if name != CALL}) if row.request else None,
    }


def operation(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one operation."""
    row = GET_OPERATION.call(service, actor, GET_OPERATION.parse(names, query))
    kept = {name: row.selection[asked] for asked, name in _STAYS.items() if row.selection.get(asked)}
    return {
        "title": f"{row.kind.capitalize()} {row.id}",
        "here": "Operations",
        "row": row,
        "taken": urlencode({**kept, **({"sink": row.sink} if row.sink else {})}, doseq=True),
    }


def _progress(service: Service, actor: Actor, wanted: OperationParameters) -> str:
    """Return what an operation does and how far it is."""
    row = GET_OPERATION.call(service, actor, wanted)
    return f"{row.kind} {row.id}: {row.done:,} of {row.total:,} done"


def views(service: Service, actor: Actor, _names: Mapping[str, str], _query: Query) -> Mapping[str, Any]:
    """Return the saved views that a person sees."""
    page = LIST_VIEWS.call(service, actor, LIST_VIEWS.validated({}))
    return {"title": "Saved views", "here": "Saved views", "rows": page.items}


def missing(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of the overdue results, and the problems that may keep others from this list."""
    page = list_page(service, actor, query, LIST_MISSING, "/missing", "Missing", _MISSING)
    status = None if actor.source else status_of(survey(service.settings, async_ledger.WAIT * SHARE))
    unlisted = [each for each in status.problems if each.code in _UNLISTED] if status else []
    commands = re.findall(r"`(runhook reconcile [^`]*--import[^`]*)`", " ".join(each.todo for each in unlisted))
    return {**page, "unlisted": unlisted, "command": next(iter(commands), "runhook reconcile --import --now")}


RUNS: Final = ConsolePage("/runs", "runs.html", runs, PageLink("Runs", "r", ""))
MISSING: Final = ConsolePage("/missing", "missing.html", missing, PageLink("Missing", "m", ""))
SUBMISSIONS: Final = (
    _list(LIST_SUBMISSIONS, PageLink("Submissions", "u", "Submitting"), "text", "state", "run", "label", "since"),
    ConsolePage("/submissions/{id}", "submission.html", submission),
)
OPERATIONS: Final = (
    _list(LIST_OPERATIONS, PageLink("Operations", "p", "Operating"), "state", "source"),
    ConsolePage("/operations/{id}", "operation.html", operation),
)
AUDIT: Final = _list(LIST_AUDIT, PageLink("Audit", "a", "Operating"), "actor", "action", "source", "since", "until")
VIEWS: Final = ConsolePage("/views", "views.html", views)
ACTIONS: Final = (
    ConsoleAction(
        CANCEL_OPERATION,
        "Stop",
        lambda row: f"{row.id} is stopped after {row.done:,} of {row.total:,}.",
        "Stop this operation? What it has done stays done.",
        about=_progress,
    ),
    ConsoleAction(SAVE_VIEW, "Save", lambda view: f"Saved as {view.name}."),
    ConsoleAction(REMOVE_VIEW, "Remove", lambda view: f"{view.name} is removed."),
)
