"""Which part of a file a request asks for."""

import pytest

from receiver.api.artifact_stream import range_of

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("Bytes= 10-19 ", (10, 20)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        # no byte is in it
        ("bytes=100-", None),
        ("bytes=999-1000", None),
        ("bytes=-0", None),
        # no range, several, or another unit: all of it
        ("bytes=-", (0, 100)),
        ("bytes=20-10", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("lines=1-2", (0, 100)),
        ("bytes=1-2x", (0, 100)),
        ("bytes=" + "9" * 400 + "-", (0, 100)),
    ],
)
def test_ranges(header: str, wanted: tuple[int, int] | None) -> None:
    assert range_of(header, "", TAG, 100) == wanted


def test_a_range_of_another_version_is_all_of_this_one() -> None:
    assert range_of("bytes=1-2", TAG, TAG, 100) == (1, 3)
    assert range_of("bytes=1-2", '"other"', TAG, 100) == (0, 100)
    assert range_of("bytes=1-2", "W/" + TAG, TAG, 100) == (0, 100)
    assert range_of("bytes=1-2", "Wed, 21 Oct 2015 07:28:00 GMT", TAG, 100) == (0, 100)


def test_of_an_empty_file_there_is_no_range() -> None:
    assert range_of("", "", TAG, 0) == (0, 0)
    assert range_of("bytes=0-", "", TAG, 0) is None
