"""Which offer an answer is to: real sockets, and no ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import create_autospec

import pytest

from receiver.delivery import offer
from receiver.delivery.offer import Offers
from receiver.ledger import Ledger
from receiver.runtime.handover import Handover
from receiver.wakeups import NudgeWait


@pytest.fixture
def handover() -> Iterator[Handover]:
    it = Handover()
    yield it
    it.close()


def mock(of: Any) -> Any:
    return create_autospec(of, instance=True)


def test_an_answer_that_comes_too_late_takes_no_other_offer_back(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an offer whose dispatcher was stopped for so long that nobody waits for it any more, and a next one
    monkeypatch.setattr(offer, "_ANSWER_WITHIN", -1.0)
    offers = Offers(mock(Ledger), mock(NudgeWait), handover, "w", 5)
    offers.put(1)
    first = handover.take()
    assert first is not None
    offers.withdraw()
    assert (offers.receive(), offers.unknown, offers.taken) == (None, True, False)
    offers.put(2)
    # When that dispatcher goes on, and answers
    handover.hand_on(first, ["dlv_1"])
    offers.hear(offers.descriptors())
    answer = offers.receive()
    # Then the other offer is still the only one that is out, and can be withdrawn
    assert answer is not None
    assert (answer.claim_number, offers.outstanding) == (1, {2})
    offers.put(3)
    offers.withdraw()
    assert handover.take() is None
