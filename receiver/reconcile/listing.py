"""Reads Skyvern's list of runs back to a moment, page by page, within the budget.

The list is ordered by the time of creation, the newest first, and new runs push others to later pages: a run may be
read twice, and none is missed. It ends at page 100 (1.0.56), that is after 10,000 runs, and cannot be asked for a time.
Where it ends too early, it is read again for each status, and then for each type of run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
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


class RunList:
    """The runs that were created since `since` (epoch seconds, Skyvern's clock). Iterate it once, page by page.

    `statuses`: only runs that have one of them. `to_the_end`: a page that is not full may have a next one.
    `with_active`: older active runs of these pages too. `stopped`: whether to break off.

    `newest`: when the newest run that was read so far was created. After the last page, `reached`: whether the list
    goes back to `since`; `trouble`: why reading was broken off, or ""; `retry_after`: seconds that Skyvern then asked
    to wait.
    """

    def __init__(
        self,
        source: PolledSource,
        since: float,
        *,
        statuses: Sequence[str] = (),
        to_the_end: bool = False,
        with_active: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source = source
        self._since = since
        self._statuses = statuses
        self._full = 1 if to_the_end else source.page_size  # rows of a page that may have a next one
        self._with_active = with_active
        self._stopped = stopped
        self.newest: float | None = None
        self.reached = True
        self.trouble = ""
        self.retry_after = 0.0
        self.calls = 0

    def __iter__(self) -> Iterator[Sequence[ListedRun]]:
        """Yield the pages, without those that have no such run."""
        if (yield from self._read(self._statuses)):
            return
        for status in self._statuses or STATUSES:  # the whole list ends too early
            if self.trouble or (yield from self._read([status])):
                continue
            for run_type in RUN_TYPES:
                if not self.trouble and not (yield from self._read([status], [run_type])) and not self.trouble:
                    self.reached = False

    def _read(
        self, statuses: Sequence[str], run_types: Sequence[str] = ()
    ) -> Generator[Sequence[ListedRun], None, bool]:
        """Read one list. Returns whether it goes back to `since`; if not, there is trouble, or it ends too early."""
        for page in range(1, self._source.max_pages + 1):
            if not self._source.wait_for_budget(self._stopped):
                self.trouble = "the process is stopping"
                return False
            answer = self._source.reader.list_runs(page, self._source.page_size, statuses, run_types)
            self.calls += 1
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None or not isinstance(answer, Answered):
                self.trouble = f"page {page}: {failure(answer)}"
                self.retry_after = (answer.retry_after if isinstance(answer, Answered) else None) or 0.0
                return False
            times = [row.created_at for row in rows if row.created_at is not None]
            self.newest = max([*times, *([] if self.newest is None else [self.newest])], default=None)
            if wanted := [row for row in rows if self._is_wanted(row)]:
                yield wanted
            if length_of_list(answer) < self._full or min(times, default=self._since) < self._since:
                return True
        return False

    def _is_wanted(self, row: ListedRun) -> bool:
        return row.created_at is None or row.created_at >= self._since or (self._with_active and not row.final)
