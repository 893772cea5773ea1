"""Submissions: the list, and one with its run and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.outline import outline
from receiver.api.service import Actor, Service
from receiver.api.submissions import GET_SUBMISSION, LIST_SUBMISSIONS
from receiver.console.filters import filter_form
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of
from receiver.console.pages.deliveries import resubmits
from receiver.domain.counting import counted
from receiver.domain.submission import SubmissionState

_COMMON: Final = ("text", "state", "run", "label", "since")
_MORE: Final = ("source", "status", "workflow", "title", "reason", "until")
_STATES: Final = tuple(each.value for each in SubmissionState)


def submissions(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of submissions that match what the query says."""
    given = given_of(query)
    found = LIST_SUBMISSIONS.call(service, actor, LIST_SUBMISSIONS.parse({}, given))
    return {
        "title": "Submissions",
        "here": "Submissions",
        "submissions": found.items,
        "form": filter_form(service, actor, "/submissions", given, _COMMON, _MORE, {"state": _STATES}),
        "further": further("/submissions", given, found),
    }


def submission(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one submission with its run."""
    told = GET_SUBMISSION.call(service, actor, GET_SUBMISSION.parse(names, query))
    found = told.submission
    facts = [
        ("id", found.id),
        ("source", found.source),
        ("call", found.call),
        ("key", told.key.name if told.key else found.key_id),
        ("type", found.run_type),
        ("answer", f"HTTP {found.answer_status}" if found.answer_status else ""),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(found.labels.items()))),
        ("polled", counted(found.polls, "time", "times") if found.polls else ""),
    ]
    return {
        "title": found.title or found.id,
        "here": "Submissions",
        "submission": found,
        "run": told.run,
        "timeline": told.timeline,
        "facts": [(name, value) for name, value in facts if value],
        "resubmits": resubmits(service),
        "request": None if found.request is None else outline(found.request),
    }


PAGES: Final = (
    ConsolePage("/submissions", "submissions.html", submissions, PageLink("Submissions", "u", "Submitting")),
    ConsolePage("/submissions/{id}", "submission.html", submission),
)
