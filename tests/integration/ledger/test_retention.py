"""Retention beside others' transactions on PostgreSQL: what they queue or add meanwhile is not deleted with the old."""

from __future__ import annotations

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger, actions, retention
from receiver.ledger.actions import Action, Selection
from receiver.ledger.deliveries import creation
from tests.support.ledger import NOW, beside, claim, event_body, new_event, record, settle, states

LATER = NOW + 1000
EVENT = new_event("tsk_1", "ops").event.id


@pytest.fixture
def old(postgres_ledger: Ledger) -> Ledger:
    """A ledger with one event, which is old, and whose delivery is dead."""
    record(postgres_ledger, new_event("tsk_1", "ops"))
    settle(postgres_ledger, claim(postgres_ledger, "ops"), DeliveryMove.DIE)
    return postgres_ledger


def remove(connection: Connection) -> int:
    return retention.remove(connection, LATER).events


def replay(connection: Connection) -> None:
    actions.create(connection, "op_1", Action("replay", Selection()), LATER)
    assert actions.step(connection, LATER).sinks == ["ops"]


def backfill(connection: Connection) -> list[str]:
    return creation.add(connection, [creation.delivery_row(EVENT, "skyvern", "tsk_1", "later", "backfill", LATER)])


def test_a_delivery_that_is_replayed_while_its_event_is_removed_is_kept(old: Ledger) -> None:
    with beside(old, replay, remove) as (_, removed):
        assert removed == 0
    assert states(old) == {"tsk_1:ops": "queued"}
    assert event_body(old, EVENT)


def test_a_delivery_that_is_added_while_its_event_is_removed_is_kept_with_it(old: Ledger) -> None:
    with beside(old, backfill, remove) as (made, removed):
        assert (len(made), removed) == (1, 0)
    assert states(old) == {"tsk_1:ops": "dead", "tsk_1:later": "queued"}
    assert event_body(old, EVENT)


def test_no_delivery_is_added_to_an_event_that_is_being_removed(old: Ledger) -> None:
    with beside(old, remove, backfill) as (removed, made):
        assert (removed, made) == (1, [])
    assert states(old) == {}
    assert event_body(old, EVENT) is None
