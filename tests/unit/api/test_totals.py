"""Totals as the API tells them."""

from typing import Any

import pytest
from pydantic import ValidationError

from receiver.api.totals import TotalsParameters, merged
from receiver.ledger.totals import Group


def group(count: int, *key: str, bucket: int | None = None) -> Group:
    return Group(key, bucket, count, count - 1, count)


def test_reasons_that_differ_in_numbers_only_are_one() -> None:
    groups = [group(3, "failed", "Timeout after 30 s"), group(2, "failed", "timeout after 31 s"), group(4, "x", "")]
    found = merged(groups, ("status", "reason"), 10)
    assert [(each.key, each.count, each.good) for each in found] == [
        (("failed", "timeout after # s"), 5, 3),
        (("x", ""), 4, 3),
    ]


def test_largest_groups_have_all_buckets_in_order_of_time() -> None:
    groups = [group(9, "a", bucket=2), group(5, "b", bucket=1), group(6, "b", bucket=0), group(3, "c", bucket=1)]
    found = merged(groups, ("status",), 2)
    assert [(each.key[0], each.bucket) for each in found] == [("b", 0), ("b", 1), ("a", 2)]


@pytest.mark.parametrize("given", ["status,reason", ["status,reason"], ["status", "reason"], "status, reason,"])
def test_names_may_stand_in_one_text_or_in_several(given: Any) -> None:
    assert TotalsParameters(by=given).by == ("status", "reason")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"by": "stauts"}, "did you mean status?"),
        ({"by": "x"}, "there are source, status"),
        ({"by": "status,status"}, "names one twice"),
        ({"bucket": "0s"}, "greater than or equal to 1"),
        ({"bucket": "soon"}, "must be a duration such as"),
    ],
)
def test_what_can_not_be_counted_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told.replace("?", r"\?")):
        TotalsParameters(**given)
