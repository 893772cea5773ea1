"""Reads Skyvern's list of runs back to a moment, page by page, within the budget.

The list is ordered by the time of creation, the newest first, and new runs push others to later pages: a run may be
read twice, and none is missed. It ends at page 100 (1.0.56), that is after 10,000 runs, and cannot be asked for a time.
Where it ends too early, it is read again for each status, and then for each type of run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answered, ListedRun, failure, length_of_list, listed_runs

# What is under way first: a run that ends while the lists are read is then in one of them.
STATUSES: Final = (*ACTIVE, *sorted(FINAL))
# Types of runs of Skyvern 1.0.56 (RunType). A type that this version does not know is still in the plain list.
RUN_TYPES: Final = (
    *("workflow_run", "task_v1", "task_v2", "task_v3"),
    *("openai_cua", "anthropic_cua", "yutori_navigator", "ui_tars"),
)

# Called with the requested rows of a page, and when the newest run that was read so far was created.
OnPage = Callable[[Sequence[ListedRun], float | None], None]


@dataclass(slots=True)
class Listing:
    """What reading the list came to. `newest`: when the newest run that was read was created. `reached`: whether it
    goes back to where it should. `trouble`: why it was broken off, or ""; `retry_after`: seconds that Skyvern then
    asked to wait."""

    newest: float | None = None
    reached: bool = True
    trouble: str = ""
    retry_after: float = 0.0
    calls: int = 0


def read_back(
    source: PolledSource,
    since: float,
    on_page: OnPage,
    *,
    statuses: Sequence[str] = (),
    to_the_end: bool = False,
    with_active: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Listing:
    """Read the runs that were created since `since` (epoch seconds, Skyvern's clock), and hand each page to `on_page`.

    `statuses`: only runs that have one of them. `to_the_end`: a page that is not full may have a
    next one. `with_active`: hand on older active runs of these pages too. `stopped`: whether to break off.
    """
    return _Reading(source, since, on_page, to_the_end, with_active, stopped).read(statuses)


@dataclass(slots=True)
class _Reading:
    """One reading of the list, of which `listing` tells."""

    source: PolledSource
    since: float
    on_page: OnPage
    to_the_end: bool
    with_active: bool
    stopped: Callable[[], bool]
    listing: Listing = field(default_factory=Listing)

    def read(self, statuses: Sequence[str]) -> Listing:
        """Read the list; its parts, where it ends too early."""
        if not self._read(statuses, ()) and not self.listing.trouble:
            self._read_parts(statuses or STATUSES)
        return self.listing

    def _read_parts(self, statuses: Sequence[str]) -> None:
        for status in statuses:
            if self._read([status], ()):
                continue
            for run_type in RUN_TYPES:
                if self.listing.trouble:
                    return
                if not self._read([status], [run_type]) and not self.listing.trouble:
                    self.listing.reached = False

    def _read(self, statuses: Sequence[str], run_types: Sequence[str]) -> bool:
        """Read one list. Returns whether it goes back to `since`; if not, there is trouble, or it ends too early."""
        listing = self.listing
        if listing.trouble:
            return False
        for page in range(1, self.source.max_pages + 1):
            if not self.source.wait_for_budget(self.stopped):
                listing.trouble = "the process is stopping"
                return False
            answer = self.source.reader.list_runs(page, self.source.page_size, statuses, run_types)
            listing.calls += 1
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None or not isinstance(answer, Answered):
                listing.trouble = f"page {page}: {failure(answer)}"
                listing.retry_after = (answer.retry_after if isinstance(answer, Answered) else None) or 0.0
                return False
            times = [row.created_at for row in rows if row.created_at is not None]
            listing.newest = max([*times, *([] if listing.newest is None else [listing.newest])], default=None)
            wanted = [
                row
                for row in rows
                if row.created_at is None or row.created_at >= self.since or (self.with_active and not row.final)
            ]
            if wanted:
                self.on_page(wanted, listing.newest)
            if length_of_list(answer) < (1 if self.to_the_end else self.source.page_size) or (
                times and min(times) < self.since
            ):
                return True
        return False
