"""When an event that says nothing new completes what is known of its run: an update, and no mere repeat."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.deduplication import Classification, Facts
from receiver.domain.extent import Extent
from tests.support import facts
from tests.support.facts import NOTHING, classified


def event(says: str = "A", at: float | None = 1.0, *, shots: int = 0, mask: int = 0, **fields: Any) -> Facts:
    return facts.event(says, at, extent=extent_with(shots, mask), **fields)


def extent_with(shots: int, mask: int) -> Extent:
    return NOTHING._replace(screenshots=shots, mask=mask)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # What comes later completes, however late it is by Skyvern's clock.
        ([event(), event(shots=1)], "update"),
        ([event(at=5.0), event(at=1.0, shots=1)], "update"),
        ([event(), event(at=None, shots=1)], "update"),
        ([event(status="running"), event(status="running", shots=1)], "update"),
        # What has no more than all before it is a repeat.
        ([event(shots=1), event(mask=1), event(shots=1, mask=1)], "repeat"),
        # More of what the run does not say any more completes nothing.
        ([event("A"), event("B", 2.0), event("A", 1.5, shots=1)], "repeat"),
        ([event("A"), event("B", 2.0), event("A", 3.0, shots=1)], "new"),
        ([event("A"), event("B", 2.0), event("B", 1.5, shots=1)], "update"),
        # Another result, attempt or outcome is no update.
        ([event("A"), event("B", 2.0, shots=1)], "new"),
        ([event("A"), event("A", 2.0, attempt=2, shots=1)], "new"),
        ([event("A", status="canceled"), event("A", 2.0, shots=1)], "new"),
        ([event("A", 2.0), event("B", 1.0, shots=1)], "superseded"),
        # And output is never replaced by none.
        ([event("A"), event("", 2.0, null=True, shots=1)], "superseded"),
    ],
)
def test_what_an_event_with_more_or_less_is(events: list[Facts], expected: str) -> None:
    assert classified(events)[-1].disposition == expected


def test_an_update_names_the_first_event_that_said_the_same() -> None:
    found = classified([event("A"), event("B", 2.0), event("B", 2.5), event("B", 3.0, shots=1), event("B", 3.0)])

    assert found[2:] == [Classification("repeat", "2"), Classification("update", "2"), Classification("repeat", "2")]


extents = st.builds(extent_with, st.integers(0, 3), st.integers(0, 7))


@given(st.lists(extents, min_size=1, max_size=8))
def test_of_one_result_each_thing_more_is_told_once(arrived: list[Extent]) -> None:
    found = classified([event()._replace(extent=extent) for extent in arrived])

    assert found[0] == Classification("new")
    for place, (extent, each) in enumerate(zip(arrived, found, strict=True)):
        if place:
            more = extent.exceeds(arrived[:place])
            assert each == Classification("update" if more else "repeat", "1")
