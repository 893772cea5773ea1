"""Labels from header and body."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.submit.request.labels import LabelError, labels_of


def test_labels_come_from_header_and_body() -> None:
    assert labels_of("team=billing, order=42,note=a%2Cb") == {"team": "billing", "order": "42", "note": "a,b"}
    assert labels_of("team=a", {"team": "b", "n": 1, "ok": True}) == {"n": "1", "ok": "true", "team": "b"}
    assert labels_of("") == {}


def test_full_labels_leave_room_for_the_chain() -> None:
    full = {f"n{number}": "1" for number in range(32)}

    assert len(labels_of("", full | {"runhook-chain": "tsk_1", "runhook-try": "2"})) == 34


@pytest.mark.parametrize(
    ("header", "member"),
    [
        ("team", None),
        ("Team=a", None),
        ("=a", None),
        ("a=" + "x" * 257, None),
        (",".join(f"n{n}=1" for n in range(33)), None),
        ("", []),
        ("", {"a": {}}),
        ("", {"a": None}),
        ("", {"a": "x\n"}),
        ("", {"a": "\ud800"}),
        ("", {"": "x"}),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(header: str, member: Any) -> None:
    with pytest.raises(LabelError):
        labels_of(header, member)
