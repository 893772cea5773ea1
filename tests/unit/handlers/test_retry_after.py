"""What a Retry-After asks for, whatever a server writes there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.support.retry_after import MAX_RETRY_AFTER, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 120 "}, 120),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "²"}, None),
        # The standard library raises OverflowError for it.
        ({"retry-after": "21 Oct 2015 07:28:00 999999999999"}, None),
        ({"retry-after": "999999999999"}, 86_400),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Sun, 01 Mar 2026 10:01:00 GMT"}, 60),
        ({"retry-after": "Sun, 01 Mar 2026 09:00:00 GMT"}, 0),
        ({"retry-after": "Sun, 01 Mar 2126 10:00:00 GMT"}, 86_400),
        ({"retry-after": "Sun, 99 Mar 2026 10:00:00 GMT"}, None),
        # The server's clock is an hour behind ours: what counts is the wait that it meant.
        ({"retry-after": "Sun, 01 Mar 2026 09:00:30 GMT", "date": "Sun, 01 Mar 2026 09:00:00 GMT"}, 30),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_a_day(headers: dict[str, str], seconds: float | None) -> None:
    now = 1772359200.0  # 2026-03-01 10:00:00 UTC
    assert retry_after(headers, now) == seconds


@given(st.text(), st.text())
def test_nothing_that_a_server_writes_is_an_error(text: str, date: str) -> None:
    found = retry_after({"retry-after": text, "date": date}, 1e9)

    assert found is None or 0 <= found <= MAX_RETRY_AFTER
