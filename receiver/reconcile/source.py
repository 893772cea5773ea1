"""A source whose API can be called, with the budget of its calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from receiver.reconcile.resolver import Resolver
from receiver.skyvern import SkyvernReader

# Seconds between two tries to get a call out of the budget.
BUDGET_PAUSE = 0.2


@dataclass(slots=True)
class PolledSource:
    """A source whose API can be called. `budget`: takes calls from the rate limit and
    returns how many may be made now. `watch`: whether its list
    of runs is walked. `hooks`: the URL at which its webhooks reach us, without a token, or ""."""

    name: str
    reader: SkyvernReader
    budget: Callable[[int], int]
    resolver: Resolver
    watch: bool = False
    hooks: str = ""

    def wait_for_budget(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until one call may be made. False when `stopped()` first."""
        while not self.budget(1):
            if stopped():
                return False
            time.sleep(BUDGET_PAUSE)
        return True
