"""Finds the schedules of an account that should have started a run and did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from receiver.reconcile.source import PolledSource
from receiver.skyvern.account import ListedSchedule, last_due, listed_schedules, scheduled_run_id
from receiver.skyvern.requests import PAGE_SIZE
from receiver.skyvern.responses import Answered, failure, listed_runs

# Seconds that a run may begin after its time: Skyvern's own scheduler starts at most one a minute.
LATE: Final = 600.0
# Seconds that the clock of Skyvern's database may be behind.
_SKEW: Final = 120.0
_MOST_PAGES: Final = 50


@dataclass(frozen=True, slots=True)
class ScheduleCheck:
    """A schedule, when it should have started a run last, and whether it did (None: unknown)."""

    schedule: ListedSchedule
    due_at: float | None = None
    ran: bool | None = None

    @property
    def missed(self) -> float | None:
        """The time that it missed, or None."""
        return self.due_at if self.ran is False else None


def check_schedules(
    source: PolledSource, now: float, stopped: Callable[[], bool] = lambda: False
) -> tuple[list[ScheduleCheck], str]:
    """Return each schedule with whether its last due run happened, and what was wrong, or "". A call for each that is
    due, and another where that finds no run. A Skyvern without schedules has none."""
    found, broken = source.all_pages(source.reader.list_schedules, listed_schedules, _MOST_PAGES)
    lacks = isinstance(broken, Answered) and broken.status in (404, 405, 501)
    trouble = "" if broken is None or lacks else f"schedules: {failure(broken)}"
    checks = []
    for each in found:
        try:
            due_at = last_due(each, now - LATE)
        except ValueError as error:
            trouble = trouble or f"schedule {each.id}: {error}"
            due_at = None
        ran = None if due_at is None or stopped() else _ran(source, each, due_at)
        checks.append(ScheduleCheck(each, due_at, ran))
    return checks, trouble


def _ran(source: PolledSource, schedule: ListedSchedule, due_at: float) -> bool | None:
    """Whether the schedule has started a run for that time. Skyvern's own scheduler names it by schedule and time; one
    of another name is found by when it was created."""
    if schedule.dispatch == "fired":
        return True
    source.wait_for_budget()
    answer = source.reader.get_run(scheduled_run_id(schedule.id, due_at))
    if isinstance(answer, Answered) and answer.ok:
        return True
    if not isinstance(answer, Answered) or answer.status != 404:
        return None
    source.wait_for_budget()
    listed = source.reader.list_runs(1, PAGE_SIZE, agent_id=schedule.agent_id)
    rows = listed_runs(listed) if isinstance(listed, Answered) else None
    if rows is None:
        return None
    return any(
        row.trigger == "scheduled"
        and row.workflow_id == schedule.agent_id
        and row.created_at is not None
        and row.created_at >= due_at - _SKEW
        for row in rows
    )
