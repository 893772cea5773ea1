"""A submission with its run and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.outline import outline
from receiver.api.service import Actor, Service
from receiver.api.submissions import GET_SUBMISSION
from receiver.console.page import ConsolePage, Query
from receiver.console.pages.deliveries import resubmits
from receiver.domain.counting import counted


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


PAGES: Final = (ConsolePage("/submissions/{id}", "submission.html", submission),)
