"""How many deliveries are prefetched. What becomes of them is tested with the deliverer, and by killing workers."""

from __future__ import annotations

import pytest

from handlers import Unavailable
from handlers.http import HttpOptions, HttpSink
from handlers.testing.conformance import NoServices
from receiver.delivery.prefetch import FAST, MOST, Prefetch, unrecorded_starts
from receiver.delivery.send_task import SendTask
from receiver.delivery.sender import SenderPool


def prefetch(slots: int, seconds: float) -> Prefetch:
    """Return one for a sink whose sends take so many seconds."""
    sink = HttpSink("hook", HttpOptions(url="http://127.0.0.1:9/", timeout=1), NoServices())  # type: ignore[arg-type]
    senders = SenderPool(sink, slots, 3.0)
    senders.typical_seconds = seconds
    return Prefetch(senders, "owner")


@pytest.mark.parametrize(
    ("slots", "seconds", "wanted"),
    [
        (64, 0.02, 256),
        (64, 0.0, 256),
        (64, FAST, 256),
        (64, FAST + 0.01, 0),
        (64, float("inf"), 0),
        (1, 0.02, 4),
        (1000, 0.02, MOST),
    ],
)
def test_four_are_prefetched_for_each_slot_of_a_fast_sink(slots: int, seconds: float, wanted: int) -> None:
    assert prefetch(slots, seconds).wanted() == wanted
    assert 2 * wanted <= unrecorded_starts(slots)


def test_nothing_is_prefetched_after_trouble() -> None:
    given = prefetch(4, 0.01)
    failed = SendTask(1, [], {}, answers=[Unavailable("away")])
    given.review([failed], closing=False)
    assert given.wanted() == 0
