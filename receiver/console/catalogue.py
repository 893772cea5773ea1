"""All pages of the console, in the order of their links, and all that its buttons do."""

from __future__ import annotations

from typing import Final

from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage
from receiver.console.pages import (
    deliveries,
    event,
    incidents,
    keys,
    lists,
    operations,
    overview,
    quarantine,
    routes,
    run,
    runs,
    schedules,
    sinks,
    submissions,
    views,
)

PAGES: Final[tuple[ConsolePage, ...]] = (
    *overview.PAGES,
    *runs.PAGES,
    *run.PAGES,
    *event.PAGES,
    *incidents.PAGES,
    lists.MISSING,
    *deliveries.PAGES,
    *sinks.PAGES,
    *routes.PAGES,
    lists.SUBMISSIONS,
    *submissions.PAGES,
    *schedules.PAGES,
    *keys.PAGES,
    lists.OPERATIONS,
    *operations.PAGES,
    *quarantine.PAGES,
    lists.AUDIT,
    *views.PAGES,
)

ACTIONS: Final[tuple[ConsoleAction, ...]] = (
    *deliveries.ACTIONS,
    *sinks.ACTIONS,
    *routes.ACTIONS,
    *keys.ACTIONS,
    *schedules.ACTIONS,
    *operations.ACTIONS,
    *quarantine.ACTIONS,
    *views.ACTIONS,
    *incidents.ACTIONS,
)
