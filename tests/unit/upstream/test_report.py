"""What `make upstream` prints: a line for each difference, and news that fail nothing."""

from __future__ import annotations

import pytest

from tests.upstream.report import Report, value_at


def test_the_same_is_counted_and_not_shown() -> None:
    report = Report()

    assert report.expect("a place", 1, 1)
    report.expect_members("an answer", ("run_id", "status"), {"run_id": 1, "status": 2})

    assert report.lines() == ["2 as expected, 0 differ, 0 new"]


def test_another_value_is_told_with_place_expected_and_found() -> None:
    report = Report()

    assert not report.expect("cancel, answer", 200, 404)

    assert report.lines()[0] == "DIFFERS  cancel, answer: expected 200, found 404"


def test_a_missing_member_differs_and_a_further_one_is_news() -> None:
    report = Report()

    report.expect_members("poll", ("run_id", "status"), {"run_id": 1, "color": 2})

    assert report.differences == ["poll: expected the members status, found none of these"]
    assert report.news == ["poll: has further members: color"]


@pytest.mark.parametrize("found", [None, [], "text"])
def test_what_is_no_object_differs(found: object) -> None:
    report = Report()

    report.expect_members("poll", ("run_id",), found)

    assert len(report.differences) == 1


def test_a_member_that_was_lacking_and_is_there_is_news() -> None:
    report = Report()

    report.expect_lacking("poll", ("task_id", "summary"), {"run_id": 1, "summary": None})

    assert (report.news, report.differences) == (["poll: has now what it lacked: summary"], [])


def test_values_are_compared_where_both_have_them() -> None:
    report = Report()

    report.expect_same_values("two", {"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 9, "c": 9}, but_for=("c",))

    assert report.differences == ["two, b: expected 2, found 9"]


def test_a_long_value_and_many_names_are_cut() -> None:
    report = Report()

    report.expect("a place", "x" * 1000, "")
    report.expect_members("poll", (), {f"member_{number}": 0 for number in range(20)})

    assert all(len(line) < 300 for line in report.lines())
    assert report.news[0].endswith("member_7 and 12 more")


@pytest.mark.parametrize(
    ("path", "found"), [("output", 1), ("run_request.url", "u"), ("run_request.none", None), ("output.url", None)]
)
def test_a_path_leads_into_a_body(path: str, found: object) -> None:
    assert value_at(path, {"output": 1, "run_request": {"url": "u"}}) == found
