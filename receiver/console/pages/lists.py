"""Lists that show the rows of a call as they are, and the pages of one row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from handlers.support.resubmit_chain import RETRIED
from receiver.api.audit import LIST_AUDIT
from receiver.api.deliveries import REPLAY_DELIVERIES, REPLAYABLE
from receiver.api.endpoint import Endpoint
from receiver.api.models import Filtered
from receiver.api.operations import CANCEL_OPERATION, GET_OPERATION, LIST_OPERATIONS, OperationParameters
from receiver.api.outline import outline
from receiver.api.reroutes import RESUBMIT_RUNS
from receiver.api.runs import LIST_RUNS
from receiver.api.status import status_of
from receiver.api.submissions import GET_SUBMISSION, LIST_MISSING, LIST_SUBMISSIONS
from receiver.checks.survey import survey
from receiver.console.action import ConsoleAction
from receiver.console.filters import list_page
from receiver.console.page import SHARE, ConsolePage, PageLink, PageRequest, PageValues
from receiver.console.pages.deliveries import resubmits
from receiver.domain.counting import counted
from receiver.ledger.database import async_ledger
from receiver.submit.request_record import CALL

# Members of an operation's selection that find its deliveries also when it is done, and how the list calls them.
_STAYS: Final = {
    **{each: each for each in ("source", "sink", "route", "event_id", "run_prefix", "run_type", "workflow", "status")},
    "run_id": "run",
}
_MISSING: Final = ("run_prefix", "workflow", "title", "since")
# Codes of problems by which results may be missing of runs that no list has, or come late.
_UNLISTED: Final = frozenset(
    {"redis_lost", "webhooks_refused", "webhooks_missed", "misdirected", "quarantine", "spool_left", "spool_damaged"}
    | {"inbox_set_aside", "inbox_late", "watch_trouble"}
)
_RUNS: Final = ("text", "status", "workflow", "run_prefix", "since")


def _list(call: Endpoint[Any, Any], link: PageLink, *common: str) -> ConsolePage:
    """Return the page of a list that shows its rows as they are. `common`: filters that are shown at once."""
    name = link.name.lower()

    def load(request: PageRequest) -> PageValues:
        return list_page(request, call, link.name, common)

    return ConsolePage(f"/{name}", f"{name}.html", load, link)


def runs(request: PageRequest) -> PageValues:
    """Return a page of runs that match what the query says."""
    again = resubmits(request.service)
    page = list_page(request, LIST_RUNS, "Runs", _RUNS)
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


def submission(request: PageRequest) -> PageValues:
    """Return one submission with its run and what it waits for."""
    details = request.call_as_asked(GET_SUBMISSION)
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
        "resubmits": resubmits(request.service),
        "request": outline({name: row.request[name] for name in row.request if name != CALL}) if row.request else None,
    }


def operation(request: PageRequest) -> PageValues:
    """Return one operation."""
    row = request.call_as_asked(GET_OPERATION)
    kept = {name: row.selection[asked] for asked, name in _STAYS.items() if row.selection.get(asked)}
    return {
        "title": f"{row.kind.capitalize()} {row.id}",
        "here": "Operations",
        "row": row,
        "taken": urlencode({**kept, **({"sink": row.sink} if row.sink else {})}, doseq=True),
    }


def _progress(request: PageRequest, parameters: OperationParameters) -> str:
    """Return what an operation does and how far it is."""
    row = GET_OPERATION.call(request.service, request.actor, parameters)
    return f"{row.kind} {row.id}: {row.done:,} of {row.total:,} done"


def missing(request: PageRequest) -> PageValues:
    """Return a page of the overdue results, and the problems that may keep others from this list."""
    page = list_page(request, LIST_MISSING, "Missing", _MISSING)
    status = None
    if not request.actor.source:
        status = status_of(survey(request.service.settings, async_ledger.WAIT * SHARE))
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
ACTIONS: Final = (
    ConsoleAction(
        CANCEL_OPERATION,
        "Stop",
        lambda row: f"{row.id} is stopped after {row.done:,} of {row.total:,}.",
        "Stop this operation? What it has done stays done.",
        about=_progress,
    ),
)
