"""When a schedule of Skyvern's should have started a run last, and which run that is. The only user of croniter, with
which Skyvern reads cron expressions too. Pure: the time is passed in.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from receiver.skyvern.account import ListedSchedule


def last_due(schedule: ListedSchedule, now: float) -> float | None:
    """Return the last time up to `now` at which it should have started a run, in seconds since the epoch.

    None if it is paused, has not reached its first time, or was changed since. A single time that was
    canceled counts for nothing. Raises ValueError for a schedule that can't be read.
    """
    if not schedule.enabled or schedule.dispatch == "canceled":
        return None
    at: float | None = None
    if schedule.once_at is not None:
        at = schedule.once_at
    elif schedule.interval and schedule.first_at is not None:
        at = schedule.first_at + (now - schedule.first_at) // schedule.interval * schedule.interval
        at = at if at >= schedule.first_at else None
    elif schedule.cron:
        at = _last_cron(schedule.cron, schedule.timezone, now)
    if at is None or at > now or (schedule.changed_at is not None and at <= schedule.changed_at):
        return None
    return at


def _last_cron(expression: str, timezone: str, now: float) -> float:
    from croniter import croniter  # it takes 30 ms to import, and few commands need it

    try:
        local = datetime.fromtimestamp(now, ZoneInfo(timezone))
        found: datetime = croniter(expression, local).get_prev(datetime)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{expression!r} in {timezone}: {error}") from None
    return found.timestamp()


def scheduled_run_id(schedule_id: str, at: float) -> str:
    """Return the id of the run that a schedule starts at a time (1.0.56, workflow_schedule_service.py)."""
    moment = datetime.fromtimestamp(int(at), UTC).isoformat()
    return "wr_sched_" + hashlib.sha256(f"{schedule_id}:{moment}".encode()).hexdigest()[:32]
