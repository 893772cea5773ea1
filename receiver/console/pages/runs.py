"""The list of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from handlers.support.resubmit_chain import RETRIED
from receiver.api.deliveries import REPLAY_DELIVERIES, REPLAYABLE, RESUBMIT_RUNS
from receiver.api.models import Filtered
from receiver.api.runs import LIST_RUNS
from receiver.api.service import Actor, Service
from receiver.console.filters import list_page
from receiver.console.page import ConsolePage, PageLink, Query
from receiver.console.pages.deliveries import resubmits

_COMMON: Final = ("text", "status", "workflow", "run_prefix", "since")


def runs(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of runs that match what the query says."""
    again = resubmits(service)
    page = list_page(service, actor, query, LIST_RUNS, "/runs", "Runs", _COMMON)
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


PAGES: Final = (ConsolePage("/runs", "runs.html", runs, PageLink("Runs", "r", "")),)
