"""When a simulated schedule fires."""

from datetime import UTC, datetime, timedelta

import pytest

from simulator.schedules import SimSchedule, cron_runs

MONDAY = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("0 9 * * *", "UTC", ["23T09:00", "24T09:00", "25T09:00"]),
        ("*/20 * * * *", "UTC", ["23T08:40", "23T09:00", "23T09:20"]),
        ("30 8 * * *", "UTC", ["24T08:30", "25T08:30", "26T08:30"]),  # the moment itself has passed
        ("0 9 * * 1-5", "Europe/Prague", ["24T08:00", "25T08:00", "26T08:00"]),
        ("0 0 * * 0,6", "UTC", ["28T00:00", "29T00:00"]),
        ("0 0 25 * 5", "UTC", ["25T00:00", "27T00:00"]),  # either of both days
        ("0 12 24-26/2 11 *", "UTC", ["24T12:00", "26T12:00"]),
        ("0 0 * * 7", "UTC", ["29T00:00"]),
    ],
)
def test_a_cron_expression_has_its_next_moments(expression: str, zone: str, expected: list[str]) -> None:
    found = cron_runs(expression, zone, MONDAY, len(expected))

    assert [f"{moment:%dT%H:%M}" for moment in found] == expected


@pytest.mark.parametrize("expression", ["", "* * * *", "60 * * * *", "* 24 * * *", "a * * * *", "*/0 * * * *"])
def test_what_is_no_cron_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="Invalid cron expression"):
        cron_runs(expression, "UTC", MONDAY, 1)


def test_interval_is_due_once_each_from_its_first_moment() -> None:
    schedule = SimSchedule("s", "wpid_1", MONDAY, MONDAY, interval_seconds=600, first_fire_at=MONDAY)
    later = MONDAY + timedelta(seconds=1500)

    assert schedule.next_runs(later, 2) == [MONDAY + timedelta(seconds=1800), MONDAY + timedelta(seconds=2400)]
    assert schedule.due(later)
    schedule.fired = later
    assert not schedule.due(later + timedelta(seconds=299))
    assert schedule.due(later + timedelta(seconds=300))


def test_a_one_time_schedule_fires_once_and_a_disabled_one_never() -> None:
    once = SimSchedule("s", "wpid_1", MONDAY, MONDAY, run_at=MONDAY, dispatch_status="pending")

    assert once.due(MONDAY)
    once.dispatch_status = "fired"
    assert not once.due(MONDAY)
    assert once.next_runs(MONDAY) == []
    off = SimSchedule("s", "wpid_1", MONDAY, MONDAY, cron="* * * * *", enabled=False)
    assert not off.due(MONDAY + timedelta(days=1))
