"""The schedules of a simulated account: when they fire, and the bodies about them. Pure: the time is passed in.

Members are those of Skyvern 1.0.56. None of them names a webhook: a scheduled run uses the URL of its agent, if any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from simulator import keys
from simulator.bodies import ORGANIZATION


@dataclass(slots=True)
class SimSchedule:
    """One schedule, of one of three kinds: `cron`, `interval_seconds` since `first_fire_at`, or once at `run_at`.

    Times are aware. `fired`: when it fired last; `workflow_run_id`: the run that a one-time schedule made.
    """

    id: str
    workflow_id: str
    created_at: datetime
    modified_at: datetime
    cron: str | None = None
    interval_seconds: int | None = None
    first_fire_at: datetime | None = None
    run_at: datetime | None = None
    timezone: str = "UTC"
    enabled: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    description: str | None = None
    dispatch_status: str | None = None
    workflow_run_id: str | None = None
    fired: datetime | None = None

    def next_runs(self, now: datetime, count: int = 1) -> list[datetime]:
        """Return the moments after `now` at which it would fire."""
        if self.run_at is not None:
            return [self.run_at] if self.dispatch_status == "pending" else []
        if self.interval_seconds is not None and self.first_fire_at is not None:
            step = timedelta(seconds=self.interval_seconds)
            passed = max(0, (now - self.first_fire_at) // step + 1)
            return [self.first_fire_at + step * (passed + number) for number in range(count)]
        return cron_runs(self.cron or "", self.timezone, now, count)

    def due(self, now: datetime) -> bool:
        """Whether it should have fired by `now`, and has not yet."""
        if not self.enabled or (self.run_at is not None and self.dispatch_status != "pending"):
            return False
        upcoming = self.next_runs(self.fired or self.created_at, 1)
        return bool(upcoming) and upcoming[0] <= now


def cron_runs(expression: str, timezone: str, after: datetime, count: int) -> list[datetime]:
    """Return the next `count` moments of a cron expression of five fields. Raises ValueError for an invalid one."""
    if len(expression.split()) != 5 or not croniter.is_valid(expression):
        raise ValueError("Invalid cron expression")
    moments = croniter(expression, after.astimezone(ZoneInfo(timezone)))
    return [moments.get_next(datetime).astimezone(UTC) for _ in range(count)]


def body(schedule: SimSchedule) -> dict[str, Any]:
    """Return the schedule as the calls below its agent show it."""
    same = ("interval_seconds", "dispatch_status", "workflow_run_id", "timezone", "enabled", "name", "description")
    return {
        **{name: getattr(schedule, name) for name in same},
        "workflow_schedule_id": schedule.id,
        "organization_id": ORGANIZATION,
        "workflow_permanent_id": schedule.workflow_id,
        "cron_expression": schedule.cron,
        "first_fire_at": _zulu(schedule.first_fire_at),
        "run_at": _zulu(schedule.run_at),
        "parameters": schedule.parameters or None,
        "temporal_schedule_id": f"ws-{schedule.id}",
        "created_at": _naive(schedule.created_at),
        "modified_at": _naive(schedule.modified_at),
        "deleted_at": None,
    }


def listed(schedule: SimSchedule, title: str, now: datetime) -> dict[str, Any]:
    """Return one line of GET /v1/schedules. `title`: that of its agent."""
    upcoming = schedule.next_runs(now, 1) if schedule.enabled else []
    own = body(schedule) | {"workflow_title": title, "next_run": _zulu(upcoming[0]) if upcoming else None}
    return {name: own[name] for name in keys.SCHEDULE}


def _zulu(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
