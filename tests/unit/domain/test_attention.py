"""Which polled states become interim events, and that each does once."""

import pytest

from receiver.domain.attention import needs_report


@pytest.mark.parametrize(
    ("status", "age", "known", "told"),
    [
        ("paused", 1.0, None, True),
        ("paused", 1e9, "paused", False),
        ("running", 1.0, None, False),
        ("running", 99.0, None, False),
        ("running", 101.0, None, True),
        ("running", 1e9, "running", False),
        ("queued", 101.0, None, True),
        ("created", 101.0, None, True),
        ("running", 101.0, "queued", True),
        ("running", 1.0, "paused", True),  # somebody has let it go on
        ("running", 1.0, "queued", False),
        ("completed", 1e9, None, False),
        ("no such status", 1e9, None, False),
    ],
)
def test_a_state_that_needs_a_person_is_told_once(status: str, age: float, known: str | None, told: bool) -> None:
    assert needs_report(status, age, known, 100.0) is told
