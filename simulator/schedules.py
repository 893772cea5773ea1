"""The schedules of a simulated account: when they fire, and the bodies about them. Pure: the time is passed in.

Members are those of Skyvern 1.0.56. None of them names a webhook: a scheduled run uses the URL of its agent, if any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from simulator.samples.bodies import ORGANIZATION

NEXT_RUNS = 5
# Smallest and largest value of each of cron's five fields.
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
# Days that are searched for a cron expression's next moment.
_HORIZON = 366


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

    def next_runs(self, now: datetime, count: int = NEXT_RUNS) -> list[datetime]:
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
    parts = expression.split()
    if len(parts) != len(_RANGES):
        raise ValueError("Invalid cron expression")
    minutes, hours, days, months, weekdays = (_field(part, *ends) for part, ends in zip(parts, _RANGES, strict=True))
    weekdays = {0 if day == 7 else day for day in weekdays}
    either = parts[2] != "*" and parts[4] != "*"  # cron's old rule: with both days given, one of them is enough
    local = after.astimezone(ZoneInfo(timezone))
    found: list[datetime] = []
    for offset in range(_HORIZON):
        day = local.date() + timedelta(days=offset)
        by_date, by_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        if day.month not in months or not ((by_date or by_weekday) if either else (by_date and by_weekday)):
            continue
        for hour in sorted(hours):
            for minute in sorted(minutes):
                moment = datetime(day.year, day.month, day.day, hour, minute, tzinfo=local.tzinfo).astimezone(UTC)
                if moment > after:
                    found.append(moment)
                if len(found) == count:
                    return found
    return found


def _field(text: str, low: int, high: int) -> set[int]:
    """Return the values that one field of a cron expression stands for."""
    chosen: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if not all(each.isdigit() for each in (first, last, step) if each not in ("", "*")):
            raise ValueError("Invalid cron expression")
        start, end = (low, high) if span == "*" else (int(first), int(last) if dash else int(first))
        if step and not dash and span != "*":
            end = high
        if not low <= start <= end <= high or step == "0":
            raise ValueError("Invalid cron expression")
        chosen.update(range(start, end + 1, int(step or 1)))
    return chosen


def body(schedule: SimSchedule) -> dict[str, Any]:
    """Return the schedule as the calls below its agent show it."""
    return {
        "workflow_schedule_id": schedule.id,
        "organization_id": ORGANIZATION,
        "workflow_permanent_id": schedule.workflow_id,
        **_cadence(schedule),
        "timezone": schedule.timezone,
        "enabled": schedule.enabled,
        "parameters": schedule.parameters or None,
        "temporal_schedule_id": f"ws-{schedule.id}",
        "name": schedule.name,
        "description": schedule.description,
        "created_at": _naive(schedule.created_at),
        "modified_at": _naive(schedule.modified_at),
        "deleted_at": None,
    }


def with_next_runs(schedule: SimSchedule, now: datetime) -> dict[str, Any]:
    """Return the answer to a call that creates, reads or changes one schedule."""
    return {"schedule": body(schedule), "next_runs": [_zulu(moment) for moment in schedule.next_runs(now)]}


def listed(schedule: SimSchedule, title: str, now: datetime) -> dict[str, Any]:
    """Return one line of GET /v1/schedules. `title`: that of its agent."""
    upcoming = schedule.next_runs(now, 1) if schedule.enabled else []
    own = body(schedule)
    for name in ("temporal_schedule_id", "deleted_at"):
        del own[name]
    return {**own, "workflow_title": title, "next_run": _zulu(upcoming[0]) if upcoming else None}


def _cadence(schedule: SimSchedule) -> Mapping[str, Any]:
    return {
        "cron_expression": schedule.cron,
        "interval_seconds": schedule.interval_seconds,
        "first_fire_at": _zulu(schedule.first_fire_at),
        "run_at": _zulu(schedule.run_at),
        "dispatch_status": schedule.dispatch_status,
        "workflow_run_id": schedule.workflow_run_id,
    }


def _zulu(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
