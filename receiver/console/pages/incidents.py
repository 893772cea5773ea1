"""Failed runs by workflow and reason: what is wrong with many at once, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlencode

from receiver.api.incidents import LIST_INCIDENTS, TREND, IncidentRow
from receiver.console.charts import NAME, Values, window_links, window_of
from receiver.console.filters import filter_form
from receiver.console.page import PATH, ConsolePage, PageLink, PageRequest, PageValues
from receiver.console.pages.deliveries import resubmits

_COMMON: Final = ("workflow", "reason", "source")


def incidents(request: PageRequest) -> PageValues:
    """Return groups of runs that failed in the window, with their runs in one link."""
    window = window_of(request.query)
    query = [*((name, value) for name, value in request.query if name != NAME), ("since", window.name)]
    page = replace(request, query=query).call_as_asked(LIST_INCIDENTS)
    return {
        "title": "Incidents",
        "here": "Incidents",
        "window": window,
        "windows": window_links("/incidents", request.query, window),
        "form": filter_form(request, "/incidents", LIST_INCIDENTS, _COMMON, without=("since", "until")),
        "rows": [_shown(each, window.name) for each in page.items],
        "resubmits": resubmits(request.service),
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


PAGES: Final = (ConsolePage("/incidents", "incidents.html", incidents, PageLink("Incidents", "i", "")),)
