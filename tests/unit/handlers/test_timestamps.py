"""Times as ISO 8601 text."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.support.timestamps import epoch, utc

OFFSETS = ["", "Z", "+00:00", "+05:30", "-11:00"]


@given(moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), offset=st.sampled_from(OFFSETS))  # noqa: DTZ001
def test_a_time_is_utc_unless_it_has_an_offset(moment: datetime, offset: str) -> None:
    known = {"+05:30": timedelta(hours=5, minutes=30), "-11:00": timedelta(hours=-11)}
    right = (moment - known.get(offset, timedelta())).replace(tzinfo=UTC)
    text = moment.isoformat() + offset
    assert (utc(text), epoch(text)) == (right, right.timestamp())


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "2026-02-30", "", "yesterday", None, 3])
def test_what_is_no_time_of_utc_is_none(text: object) -> None:
    assert utc(text) is None
