"""Lists that show the rows of a call as they are: overdue results, submissions, operations, the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from receiver.api.audit import LIST_AUDIT
from receiver.api.endpoint import Endpoint
from receiver.api.operations import LIST_OPERATIONS
from receiver.api.service import Actor, Service
from receiver.api.submissions import LIST_MISSING, LIST_SUBMISSIONS
from receiver.console.filters import list_page
from receiver.console.page import ConsolePage, PageLink, Query


def _page(call: Endpoint[Any, Any], link: PageLink, common: Sequence[str]) -> ConsolePage:
    name = link.name.lower()

    def load(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
        return list_page(service, actor, query, call, f"/{name}", link.name, common)

    return ConsolePage(f"/{name}", f"{name}.html", load, link)


MISSING: Final = _page(LIST_MISSING, PageLink("Missing", "m", ""), ("run_prefix", "workflow", "title", "since"))
SUBMISSIONS: Final = _page(
    LIST_SUBMISSIONS, PageLink("Submissions", "u", "Submitting"), ("text", "state", "run", "label", "since")
)
OPERATIONS: Final = _page(LIST_OPERATIONS, PageLink("Operations", "p", "Operating"), ("state", "source"))
AUDIT: Final = _page(LIST_AUDIT, PageLink("Audit", "a", "Operating"), ("actor", "action", "source", "since", "until"))
