"""Which offer an answer is to, and what becomes of what is handed on: real sockets, and no ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import create_autospec

import pytest
import redis

from receiver.delivery import offer
from receiver.delivery.offer import Offers
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.runtime.handover import HandedOn, Handover
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


def test_what_is_handed_on_and_can_not_be_read_is_released(handover: Handover) -> None:
    # Given deliveries that are claimed for this deliverer, without what is needed to send them
    ledger = mock(Ledger)
    offers = Offers(ledger, mock(NudgeWait), handover, "w", 5)
    answer = HandedOn("w", 1, ("dlv_1",), time.monotonic(), b"")
    # When the ledger does not answer, then they count as claimed and not known
    ledger.read.side_effect = LedgerUnavailable("gone")
    with pytest.raises(LedgerUnavailable):
        offers.load(answer)
    assert offers.unknown
    # And when it answers that they are not to be sent, too
    ledger.read.side_effect = [None]
    assert (offers.load(answer), offers.unknown) == ([], True)
    # But not once they are loaded
    ledger.read.side_effect = [["loaded"]]
    assert (offers.load(answer), offers.unknown) == (["loaded"], False)


def test_while_sends_are_in_trouble_the_ledger_is_asked_whether_the_lane_is_open(handover: Handover) -> None:
    ledger = mock(Ledger)
    ledger.read.return_value = ["loaded"]
    offers = Offers(ledger, mock(NudgeWait), handover, "w", 5)
    answer = HandedOn("w", 1, ("dlv_1",), time.monotonic(), b"all that is needed to send it")
    assert offers.load(answer, undisturbed=False) == ["loaded"]


def test_while_redis_is_away_what_is_handed_on_is_heard_of(handover: Handover) -> None:
    # Given a deliverer with an offer out, which can't hear of nudges any more
    nudges = mock(NudgeWait)
    away = nudges.poll.side_effect = redis.ConnectionError("gone")
    nudges.fileno.side_effect = [7, away]
    offers = Offers(mock(Ledger), nudges, handover, "w", 5)
    offers.put(1)
    assert offers.descriptors() == [handover.answers.fileno(), 7]
    # Then it waits for answers alone, and takes something for due meanwhile
    descriptors = offers.descriptors()
    assert descriptors == [handover.answers.fileno()]
    offers.hear([])
    assert offers.nudged()
    # When one comes, then it is there
    taken = handover.take()
    assert taken is not None
    handover.hand_on(taken, ["dlv_1"])
    offers.hear(descriptors)
    answer = offers.receive()
    assert answer is not None
    assert answer.ids == ("dlv_1",)
