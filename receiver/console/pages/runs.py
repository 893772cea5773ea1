"""The list of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.runs import LIST_RUNS
from receiver.api.service import Actor, Service
from receiver.console.page import ConsolePage, PageLink, Query, given_of, next_path
from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL


def runs(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of runs that match what the query says."""
    given = given_of(query)
    wanted = LIST_RUNS.parse({}, given)
    found = LIST_RUNS.call(service, actor, wanted)
    return {
        "title": "Runs",
        "here": "Runs",
        "runs": found.items,
        "wanted": wanted,
        "since": dict(given).get("since", ""),
        "statuses": [*sorted(FINAL), *sorted(ACTIVE)],
        "filtered": any(name != "limit" for name, _ in given),
        "next_path": next_path("/runs", given, found.next),
    }


PAGES: Final = (ConsolePage("/runs", "runs.html", runs, PageLink("Runs", "r", "")),)
