"""How much an event has of its run, and when that is more than others have."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain import members
from receiver.domain.extent import MEMBERS, Extent, extent_of, parse_extent
from simulator import keys
from tests.support.facts import NOTHING

A = {"filename": "a.pdf", "checksum": "c1", "url": "https://x/a?sig=1"}
B = {"filename": "b.pdf", "checksum": "c2", "url": "https://x/b?sig=1"}

extents = st.builds(
    Extent,
    st.integers(0, 2 ** len(MEMBERS) - 1),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 3),
    st.frozensets(st.sampled_from(["0a", "1b", "2c"])),
)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"summary": "s"}),
        ({"summary": None}, {"summary": "s"}),
        ({"summary": "s"}, {"summary": "s", "prompt": "p"}),
        *(({}, {name: "there"}) for name in MEMBERS),
        # a member that no Skyvern has yet
        ({"tokens_used": None}, {"tokens_used": 5}),
        ({"tokens_used": 5}, {"tokens_used": 5, "region": "eu"}),
        # screenshots
        ({"screenshot_urls": None}, {"screenshot_urls": ["https://x/1"]}),
        ({"screenshot_urls": ["https://x/1"]}, {"screenshot_urls": ["https://x/1", "https://x/2"]}),
        ({"screenshot_urls": []}, {"screenshot_url": "https://x/1"}),
        # recordings
        ({"recording_url": None}, {"recording_url": "https://x/r.webm?sig=1"}),
        ({"recording_url": "https://x/r.webm?sig=1"}, {"recording_url": "https://x/r.mp4?sig=1"}),
        ({"recording_urls": ["https://x/1.webm"]}, {"recording_urls": ["https://x/1.mp4"]}),
        ({"recording_urls": ["https://x/1.mp4"]}, {"recording_urls": ["https://x/1.mp4", "https://x/2.webm"]}),
        # downloads
        ({"downloaded_files": []}, {"downloaded_files": [A]}),
        ({"downloaded_files": [A]}, {"downloaded_files": [A, B]}),
        ({"downloaded_files": [A]}, {"downloaded_files": [A, A]}),
    ],
)
def test_what_is_more(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert extent_of(more).exceeds([extent_of(less)])
    assert not extent_of(less).exceeds([extent_of(more)])
    assert extent_of(more).size > extent_of(less).size


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"summary": "", "parameters": {}, "attempts": [], "recording_urls": []}),
        ({"summary": "s"}, {"summary": "another"}),
        ({"screenshot_url": "https://x/1"}, {"screenshot_urls": ["https://x/1?sig=2"]}),
        ({"recording_url": "https://x/r.mp4?sig=1"}, {"recording_urls": ["https://x/r.mp4?sig=2"]}),
        ({"recording_url": "https://x/r.webm?name=a.mp4"}, {"recording_url": "https://x/r.webm"}),
        ({"downloaded_files": [A, B]}, {"downloaded_files": [B, {**A, "url": "https://x/a?sig=2"}]}),
        ({"downloaded_files": ["https://x/a?sig=1"]}, {"downloaded_files": ["https://x/a?sig=2"]}),
        ({"status": "completed", "output": {"a": 1}}, {"status": "failed"}),
        ({"downloaded_files": [A] * 101}, {"downloaded_files": [B] * 101}),
    ],
)
def test_what_is_as_much(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not extent_of(one).exceeds([extent_of(other)])
    assert not extent_of(other).exceeds([extent_of(one)])


@pytest.mark.parametrize("instead", [B, {**A, "checksum": None}, "https://x/a"])
def test_another_file_is_more_though_they_are_as_many(instead: Any) -> None:
    one, other = extent_of({"downloaded_files": [A]}), extent_of({"downloaded_files": [instead]})

    assert one.exceeds([other])
    assert other.exceeds([one])


def test_of_very_many_files_only_the_number_counts() -> None:
    many, more = ([{**A, "filename": str(number)} for number in range(count)] for count in (100, 101))

    assert extent_of({"downloaded_files": more}).exceeds([extent_of({"downloaded_files": many})])
    assert (len(extent_of({"downloaded_files": many}).parts), extent_of({"downloaded_files": more}).parts) == (
        100,
        frozenset(),
    )


def test_more_than_each_is_no_more_than_all() -> None:
    both = extent_of({"summary": "s", "screenshot_urls": ["https://x/1"], "downloaded_files": [A]})
    parts = [{"summary": "s"}, {"screenshot_urls": ["https://x/1"]}, {"downloaded_files": [A]}]

    assert all(both.exceeds([extent_of(part)]) for part in parts)
    assert not both.exceeds(map(extent_of, parts))


@pytest.mark.parametrize("odd", [None, 5, "x", {}, [None], [5], [[]], True])
def test_no_value_is_too_odd(odd: Any) -> None:
    names = ("screenshot_urls", "screenshot_url", "recording_url", "recording_urls", "downloaded_files", *MEMBERS)

    extent = extent_of(dict.fromkeys(names, odd))

    assert parse_extent(str(extent)) == extent


@given(extents)
def test_an_extent_is_read_as_it_was_written(extent: Extent) -> None:
    assert parse_extent(str(extent)) == extent
    assert str(extent).split(".")[4:] == sorted(extent.parts)


@given(st.lists(extents), extents)
def test_nothing_exceeds_itself_or_what_it_was_compared_with(others: list[Extent], mine: Extent) -> None:
    assert not mine.exceeds([*others, mine])
    assert not mine.exceeds([]) or mine != NOTHING
    if not mine.exceeds(others):
        assert not mine.exceeds([*others, *others])


@pytest.mark.parametrize(
    "bodies", [members.WEBHOOK, members.POLL, keys.SENT_AGAIN], ids=["webhook", "poll", "sent again"]
)
def test_no_member_of_the_skyvern_that_we_know_is_of_a_later_one(bodies: Any) -> None:
    names = {name for each in bodies.values() for name in each}
    assert len(names) > 20

    assert extent_of({name: [{"a": 1}] for name in names - {"downloaded_files"}}).parts == frozenset()


def test_of_very_many_members_some_are_kept_apart() -> None:
    few, many = ({f"new_{number:05d}": 1 for number in range(count)} for count in (40, 10_000))

    assert len(extent_of(many).parts) == 50
    assert extent_of(many).exceeds([extent_of(few)])
