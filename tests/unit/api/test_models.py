"""Times of parameters and results."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from receiver.api.models import Filtered, Moment, MomentParameter
from receiver.errors import Invalid

PARAMETER = TypeAdapter(MomentParameter)
RESULT = TypeAdapter(Moment)


@pytest.mark.parametrize("text", ["5000000d", "-1d", "1e9", "99999999999999999999", "inf", "0" * 300])
def test_a_time_that_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        PARAMETER.validate_python(text)


@pytest.mark.parametrize("ago", [5, 3600, 86_000])
def test_clock_time_is_the_last_one_in_utc(ago: int) -> None:
    moment = int(time.time()) - ago
    assert PARAMETER.validate_python(time.strftime("%H:%M:%S", time.gmtime(moment))) == moment


@pytest.mark.parametrize("text", ["24:00", "9:60", "22:43Z", "22:43 yesterday", "9:3", "٩:٣٠", "22:4:3:1"])
def test_time_that_no_clock_shows_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="22:43"):
        PARAMETER.validate_python(text)


def test_first_day_of_the_calendar_has_any_offset() -> None:
    first = PARAMETER.validate_python("0001-01-01T00:00:00Z")
    assert PARAMETER.validate_python("0001-01-01T00:00:00+03:00") == first


@settings(max_examples=50)
@given(st.floats(allow_nan=False))
def test_each_time_of_a_result_is_a_valid_parameter(seconds: float) -> None:
    shown = RESULT.dump_python(seconds, mode="json")
    assert shown.endswith("Z")
    asked = PARAMETER.validate_python(shown)
    assert PARAMETER.dump_python(asked, mode="json") == shown


def test_two_values_of_one_label_are_refused() -> None:
    assert Filtered(label=("team=a", "env=b", "team=a")).filter().labels == {"team": "a", "env": "b"}
    with pytest.raises(Invalid, match="team"):
        Filtered(label=("team=a", "team=b")).filter()
