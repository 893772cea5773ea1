"""What the details of a run may hold, and when there are none."""

from typing import Any

import pytest

from receiver.domain.run import parse
from receiver.reconcile.intake import DetailsUnavailable, details_of
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answered

RUN = parse(b'{"run_id":"tsk_v2_1","run_type":"task_v2","status":"completed"}')


class Reader:
    """Skyvern's API, which gives one answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self._answer = Answered(status, body)

    def get_details(self, *_: str) -> Answered:
        return self._answer


def details(status: int, body: bytes) -> dict[str, Any]:
    reader: Any = Reader(status, body)
    return dict(details_of(PolledSource("s", reader, lambda _: 1), RUN))


def test_details_hold_only_what_a_body_may_hold() -> None:
    body = b'{"task_id":"tsk_v2_1","summary":"a\\u0000b\\ud800","model":{"n":98765432109876543210,"x":1e999}}'

    found = details(200, body)

    assert found["summary"] == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert found["model"] == {"n": 98765432109876543210, "x": "1e999"}


@pytest.mark.parametrize("status", [403, 404, 405, 422])
def test_a_server_without_the_call_has_no_details(status: int) -> None:
    assert details(status, b'{"detail":"no"}') == {}


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (200, b"[]"), (200, b"<html>"), (200, b'{"a":' * 5000)])
def test_an_answer_that_tells_nothing_is_asked_for_again(status: int, body: bytes) -> None:
    with pytest.raises(DetailsUnavailable, match=str(status)):
        details(status, body)
