"""All pages of the console, in the order of their links, and all that its buttons do."""

from __future__ import annotations

from typing import Final

from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage
from receiver.console.pages import (
    agents,
    deliveries,
    incidents,
    keys,
    lists,
    overview,
    quarantine,
    routes,
    run,
    sinks,
)

PAGES: Final[tuple[ConsolePage, ...]] = (
    *(*overview.PAGES, lists.RUNS, *run.PAGES, *incidents.PAGES, lists.MISSING),
    *(*deliveries.PAGES, *sinks.PAGES, *routes.PAGES),
    *(*lists.SUBMISSIONS, *agents.PAGES, *keys.PAGES),
    *(*lists.OPERATIONS, *quarantine.PAGES, lists.AUDIT),
)
ACTIONS: Final[tuple[ConsoleAction, ...]] = tuple(
    each for module in (deliveries, sinks, keys, agents, quarantine, lists) for each in module.ACTIONS
)
