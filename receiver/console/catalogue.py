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
    missing,
    overview,
    quarantine,
    run,
    runs,
    schedules,
    submissions,
)

PAGES: Final[tuple[ConsolePage, ...]] = (
    *overview.PAGES,
    *runs.PAGES,
    *run.PAGES,
    *event.PAGES,
    *deliveries.PAGES,
    *incidents.PAGES,
    *missing.PAGES,
    *submissions.PAGES,
    *schedules.PAGES,
    *keys.PAGES,
    *quarantine.PAGES,
)

ACTIONS: Final[tuple[ConsoleAction, ...]] = (
    *deliveries.ACTIONS,
    *keys.ACTIONS,
    *quarantine.ACTIONS,
)
