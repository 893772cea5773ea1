"""When a dispatcher hands on deliveries whole, and when their ids alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.dispatch.hand_on import HandOn, RunNow
from receiver.domain.event import delivery_id
from receiver.ledger.deliveries.claims import CLAIM
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.deliveries.packed_claims import unpack
from receiver.ledger.events import NewDelivery, NewEvent, Written
from receiver.ledger.schema import lanes
from receiver.runtime.handover import HandedOn, Handover, Offer
from tests.support.ledger import new_event

ONE, OTHER = new_event("tsk_1", "ops"), new_event("tsk_2", "ops")
KNOWN = RunNow({}, 1)
HELD = new_event("tsk_3", NewDelivery("ops", "r", after=("mirror",)))
OF_A_LANE = new_event("tsk_5", NewDelivery("ops", "r", "https://app.example"))


@pytest.fixture
def handover() -> Iterator[Handover]:
    it = Handover()
    it.put(Offer("w", 3, 2))
    yield it
    it.close()


def ids(*events: NewEvent) -> set[str]:
    return {delivery_id(each.event.id, "ops") for each in events}


def hand_on(
    handover: Handover,
    *tries: list[NewEvent],
    made: set[str] | None = None,
    shut: Sequence[str] = (),
    run: RunNow | None = KNOWN,
    committed: bool = True,
) -> HandedOn:
    """Hand on what the last of these tries of a transaction makes.

    `made`: other ids than it was to make. `shut`: lanes that are paused. `run`: what each run has, None if not read.
    """
    it = HandOn({"ops": handover})
    with sa.create_engine("sqlite://", poolclass=sa.NullPool).connect() as connection:
        lanes.create(connection)
        for lane in shut:
            connection.execute(sa.insert(lanes).values(lane=lane, sink="ops", paused=True, updated_at=1.0))
        for number, events in enumerate(tries):
            it.claims(events, 100.0 + number)
            known = {} if run is None else {each.key: run for each in events}
            it.made(connection, Written(events, ids(*events) if made is None else made), known)
    it.answer(committed=committed)
    answer = handover.receive()
    assert answer is not None
    return answer


def test_what_is_new_committed_and_may_be_sent_is_handed_on_whole(handover: Handover) -> None:
    answer = hand_on(handover, [ONE, OTHER, HELD])

    assert set(answer.ids) == ids(ONE, OTHER)
    assert {each.id for each in unpack(answer.packed)} == ids(ONE, OTHER)


def test_what_is_handed_on_is_claimed_for_as_long_as_what_a_deliverer_claims_itself(handover: Handover) -> None:
    claims = HandOn({"ops": handover}).claims([ONE, HELD], 100.0)

    assert claims == {"ops": ClaimAtOnce("w", 3, 100.0 + CLAIM)}


def test_a_try_that_certainly_failed_leaves_what_the_next_one_makes(handover: Handover) -> None:
    answer = hand_on(handover, [ONE], [ONE])

    assert [(each.id, each.created_at) for each in unpack(answer.packed)] == [(answer.ids[0], 101.0)]


@pytest.mark.parametrize(
    ("why", "options"),
    [
        ("its lane is shut", {"shut": ["ops"]}),
        ("its run was not read", {"run": None}),
        ("nobody knows whether it is committed", {"committed": False}),
    ],
)
def test_ids_alone_are_handed_on_when(handover: Handover, why: str, options: dict[str, Any]) -> None:
    answer = hand_on(handover, [ONE, OTHER], **options)

    assert (set(answer.ids), answer.packed) == (ids(ONE, OTHER), b""), why


@pytest.mark.parametrize("shut", ["ops", "https://app.example"])
def test_ids_alone_are_handed_on_when_one_of_their_lanes_is_shut(handover: Handover, shut: str) -> None:
    answer = hand_on(handover, [ONE, OF_A_LANE], shut=[shut])

    assert (set(answer.ids), answer.packed) == (ids(ONE, OF_A_LANE), b"")


def test_each_delivery_is_handed_on_with_its_lane(handover: Handover) -> None:
    answer = hand_on(handover, [ONE, OF_A_LANE])

    found = {each.run_id: each.lane for each in unpack(answer.packed)}
    assert found == {"tsk_1": "ops", "tsk_5": "https://app.example"}


@pytest.mark.parametrize("made", [[ONE], []])
def test_what_was_there_before_is_not_handed_on(handover: Handover, made: list[NewEvent]) -> None:
    answer = hand_on(handover, [ONE, OTHER], made=ids(*made))

    assert set(answer.ids) == ids(*made)
    assert {each.id for each in (unpack(answer.packed) if answer.packed else ())} == ids(*made)


@pytest.mark.parametrize("made", [[ONE], []])
def test_ids_alone_are_handed_on_when_what_was_there_may_be_of_an_earlier_try(
    handover: Handover, made: list[NewEvent]
) -> None:
    answer = hand_on(handover, [ONE, OTHER], [ONE, OTHER], made=ids(*made))

    assert (set(answer.ids), answer.packed) == (ids(ONE, OTHER), b"")


def test_ids_alone_are_handed_on_when_an_earlier_try_may_have_made_others(handover: Handover) -> None:
    answer = hand_on(handover, [ONE, OTHER], [OTHER])

    assert (set(answer.ids), answer.packed) == (ids(ONE, OTHER), b"")


def test_more_than_was_offered_is_not_handed_on(handover: Handover) -> None:
    answer = hand_on(handover, [ONE, OTHER, new_event("tsk_4", "ops")])

    assert (answer.ids, answer.packed) == ((), b"")
