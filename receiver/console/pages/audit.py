"""The audit: who did what, when, on how many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.audit import LIST_AUDIT
from receiver.api.service import Actor, Service
from receiver.console.filters import filter_form
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of
from receiver.console.wording import asked_for

_FILTERS: Final = ("actor", "action", "source", "since", "until")


def audit(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of actions, the newest first."""
    given = given_of(query)
    found = LIST_AUDIT.call(service, actor, LIST_AUDIT.parse({}, given))
    return {
        "title": "Audit",
        "here": "Audit",
        "form": filter_form(service, actor, "/audit", given, _FILTERS),
        "actions": [(row, asked_for(row.selection)) for row in found.items],
        "further": further("/audit", given, found),
    }


PAGES: Final = (ConsolePage("/audit", "audit.html", audit, PageLink("Audit", "a", "Operating")),)
