"""Failed runs by workflow and reason: what is wrong with many at once, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from receiver.api.incidents import LIST_INCIDENTS, MARK_INCIDENT, TREND, IncidentRow
from receiver.api.service import Actor, Service
from receiver.console.action import ConsoleAction
from receiver.console.charts import NAME, Values, window_links, window_of
from receiver.console.filters import filter_form
from receiver.console.page import PATH, ConsolePage, PageLink, Query, given_of
from receiver.console.pages.deliveries import resubmits

_COMMON: Final = ("workflow", "reason", "source")
# The order of the list.
_STATES: Final = ("open", "acknowledged", "resolved")


def incidents(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return groups of runs that failed in the window, with their runs in one link."""
    window, given = window_of(query), given_of(query)
    parameters = [*((name, value) for name, value in given if name != NAME), ("since", window.name)]
    page = LIST_INCIDENTS.call(service, actor, LIST_INCIDENTS.parse({}, parameters))
    return {
        "title": "Incidents",
        "here": "Incidents",
        "window": window,
        "windows": window_links("/incidents", query, window),
        "form": filter_form(service, actor, "/incidents", given, LIST_INCIDENTS, _COMMON, without=("since", "until")),
        "rows": [_shown(each, window.name) for each in sorted(page.items, key=lambda row: _STATES.index(row.state))],
        "resubmits": resubmits(service),
        "others": page.others,
        "counted_since": page.counted_since,
    }


def _shown(row: IncidentRow, since: str) -> Mapping[str, Any]:
    chosen: dict[str, Any] = {"source": row.source, "workflow": row.workflow, "reason": row.find, "since": since}
    narrowed = {name: value for name, value in chosen.items() if value} | {"status": sorted(row.statuses)}
    before, now = row.trend[:TREND], row.trend[TREND:]
    nothing = [0.0] * TREND
    trend = [Values("before", "soft", [*before, *nothing]), Values("now", "bad", [*nothing, *now])]
    return {"row": row, "path": f"{PATH}/runs?{urlencode(narrowed, doseq=True)}", "fields": narrowed, "trend": trend}


ACTIONS: Final = (ConsoleAction(MARK_INCIDENT, "Acknowledge", lambda row: f"The incident is {row.state}."),)
PAGES: Final = (ConsolePage("/incidents", "incidents.html", incidents, PageLink("Incidents", "i", "")),)
