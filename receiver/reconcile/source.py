"""A source whose API can be called, with the budget of its calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from receiver.skyvern.client import SkyvernReader
from receiver.skyvern.requests import MAX_PAGES, PAGE_SIZE
from receiver.skyvern.responses import Answer, Answered

T = TypeVar("T")

# Seconds between two tries to get a call out of the budget.
BUDGET_PAUSE = 0.2


@dataclass(slots=True)
class PolledSource:
    """A source whose API can be called. `budget`: takes calls from the rate limit and returns how many may be made now.

    `watch`: whether its list of runs is walked. `hooks`: the URL at which its webhooks arrive, without a token, or "".
    `page_size`, `max_pages`: of its lists. `reads`: maximum runs that one search for lost submissions fetches; the next
    one fetches the rest.
    """

    name: str
    reader: SkyvernReader
    budget: Callable[[int], int]
    watch: bool = False
    hooks: str = ""
    page_size: int = PAGE_SIZE
    max_pages: int = MAX_PAGES
    reads: int = 500

    def wait_for_budget(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until one call may be made. False when `stopped()` first."""
        while not self.budget(1):
            if stopped():
                return False
            time.sleep(BUDGET_PAUSE)
        return True

    def all_pages(
        self, read: Callable[[int, int], Answer], rows_of: Callable[[Answered], list[T] | None], most: int
    ) -> tuple[list[T], Answer | None]:
        """Return the rows of the first `most` pages of a list, and the response that is not a page, or None.

        `read`: calls for a page, given its number and size. `rows_of`: returns None for a response that is not a list.
        """
        found: list[T] = []
        for page in range(1, most + 1):
            self.wait_for_budget()
            answer = read(page, self.page_size)
            rows = rows_of(answer) if isinstance(answer, Answered) else None
            if rows is None:
                return found, answer
            found += rows
            if len(rows) < self.page_size:
                break
        return found, None
